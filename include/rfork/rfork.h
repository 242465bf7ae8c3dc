/* rfork: fork() whose child wakes up on another host.
 *
 *     pid_t child = rfork("host-b");
 *     if (child == 0) work();             // on host-b
 *     waitpid(child, &status, 0);         // a real local process: the child's ghost
 *
 * Header-only, needs libc alone, C99 and C++. The work is done by the program rfork-trace, which is
 * found through RFORK_TRACE or PATH; RFORK_KEY names the key file. Every function blocks all
 * signals of the calling thread while it works. See rfork(3). */
#ifndef RFORK_RFORK_H
#define RFORK_RFORK_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#else
/* Strict C99 hides these. */
extern long syscall(long number, ...);
extern int clone(int (*function)(void*), void* stack, int flags, void* argument, ...);
#endif

#define RFORK_UNUSED __attribute__((unused))

struct rfork_options {
  size_t size;        /* sizeof(struct rfork_options): later versions add members at the end */
  const char* host;   /* "HOST", "HOST:PORT", "ssh:USER@HOST" */
  const char* key;    /* key file; NULL: RFORK_KEY */
  int port;           /* 0: that of `host`, or the usual one */
  int standard_input; /* not 0: the child reads standard input, through its ghost */
  const int* drop;    /* descriptors that the child finds closed */
  size_t drop_count;
  int time_limit_ms; /* to make the child; 0: rfork-trace's own limits */
};

/* The sentence of the last failure, as rfork-trace would have printed it; "" when there was none.
 */
__attribute__((weak)) char rfork_error_text[1024];
static RFORK_UNUSED const char* rfork_error(void) {
  return rfork_error_text;
}

/* What rfork-trace answers, in one write. */
struct rfork_report {
  int32_t error; /* an errno; 0: done; RFORK_READY */
  char text[1020];
};

enum {
  RFORK_MAX_ARGUMENTS = 64,
  RFORK_STACK = 65536,
  RFORK_READY = -1, /* a report: the destination is reached, fork now */
  RFORK_ENDS = 4,
  RFORK_CLOSE_ON_EXEC = 02000000 /* O_CLOEXEC */
};

/* A call of rfork-trace, prepared before anything is forked. */
struct rfork_call {
  const char* program;
  char* stack; /* of who starts it */
  char* argv[RFORK_MAX_ARGUMENTS];
  int argc;
  char numbers[RFORK_MAX_ARGUMENTS][40];
  int number_count;
  /* Of two pipes, read and write end: rfork-trace's report, and the fork's pid for it. -1: closed.
   */
  int ends[RFORK_ENDS];
  volatile uint32_t
      role; /* 0 here; what rfork-trace wrote there: the number of the child, from 1 on */
  struct rfork_call* next;
};

/* The calls of all threads that have a report open, and who may change that or fork. */
__attribute__((weak)) struct rfork_call* rfork_calls;
__attribute__((weak)) int rfork_lock;

static RFORK_UNUSED void rfork_enter(void) {
  while (__sync_lock_test_and_set(&rfork_lock, 1)) sched_yield();
}
static RFORK_UNUSED void rfork_leave(void) {
  __sync_lock_release(&rfork_lock);
}

static RFORK_UNUSED int rfork_fail(int error, const char* text) {
  snprintf(rfork_error_text, sizeof rfork_error_text, "%s", text);
  errno = error;
  return -1;
}

static RFORK_UNUSED void rfork_say(struct rfork_call* call, const char* argument) {
  union {
    const char* constant;
    char* plain;
  } text;
  text.constant = argument;
  if (call->argc < RFORK_MAX_ARGUMENTS - 1) call->argv[call->argc++] = text.plain;
}

static RFORK_UNUSED void rfork_say_number(struct rfork_call* call, const char* before,
                                          uint64_t number, const char* after) {
  if (call->number_count >= RFORK_MAX_ARGUMENTS) return;
  snprintf(call->numbers[call->number_count], sizeof call->numbers[0], "%s%llu%s", before,
           (unsigned long long)number, after);
  rfork_say(call, call->numbers[call->number_count++]);
}

/* All signals, as the kernel's 64 bits. */
static RFORK_UNUSED uint64_t rfork_block_signals(void) {
  uint64_t all = ~(uint64_t)0, before = 0;
  syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, &all, &before, sizeof before);
  return before;
}
/* Keeps errno: handlers of what was pending run now. */
static RFORK_UNUSED void rfork_restore_signals(uint64_t mask) {
  const int error = errno;
  syscall(SYS_rt_sigprocmask, 2, &mask, (void*)0, sizeof mask);
  errno = error;
}

/* Takes the SIGCHLD of `pid` that is pending, if it is this one that is. Another child's is sent
 * again. */
static RFORK_UNUSED void rfork_take_child_signal(pid_t pid) {
  union {
    unsigned char bytes[128];
    struct {
      int number, error, code, unused, pid;
    } fields;
  } info;
  const uint64_t set = (uint64_t)1 << (17 - 1); /* SIGCHLD */
  struct {
    long seconds, nanoseconds;
  } now = {0, 0};
  memset(&info, 0, sizeof info);
  if (syscall(SYS_rt_sigtimedwait, &set, &info, &now, sizeof set) != 17) return;
  if (info.fields.pid != pid) syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 17);
}

/* Waits for a child whatever its end signal is. */
static RFORK_UNUSED void rfork_wait_for(pid_t pid) {
  while (waitpid(pid, (int*)0, 0x40000000 /* __WALL */) < 0 && errno == EINTR) {
  }
}

static RFORK_UNUSED void rfork_reap(pid_t pid) {
  rfork_wait_for(pid);
  rfork_take_child_signal(pid);
}

static RFORK_UNUSED void rfork_close_end(struct rfork_call* call, int end) {
  if (call->ends[end] >= 0) close(call->ends[end]);
  call->ends[end] = -1;
}

/* The pipe for rfork-trace's answer, and one for the pid of a process that is still to be made. */
static RFORK_UNUSED int rfork_open_pipes(struct rfork_call* call, int forks) {
  int i, error = 0;
  for (i = 0; i < RFORK_ENDS; ++i) call->ends[i] = -1;
  rfork_enter();
  if (syscall(SYS_pipe2, call->ends, RFORK_CLOSE_ON_EXEC) != 0 ||
      (forks && syscall(SYS_pipe2, call->ends + 2, RFORK_CLOSE_ON_EXEC) != 0)) {
    error = errno;
    for (i = 0; i < 2; ++i) rfork_close_end(call, i);
  } else {
    call->next = rfork_calls;
    rfork_calls = call;
  }
  rfork_leave();
  errno = error;
  return error == 0 ? 0 : -1;
}

/* rfork-trace has its ends now. Where this process itself will be captured, without these pipes, no
 * other thread may get their numbers meanwhile. */
static RFORK_UNUSED void rfork_close_its_ends(struct rfork_call* call) {
  const int forks = call->ends[2] >= 0;
  rfork_enter();
  if (forks || syscall(SYS_dup3, call->ends[0], call->ends[1], RFORK_CLOSE_ON_EXEC) < 0)
    rfork_close_end(call, 1);
  rfork_close_end(call, 2);
  rfork_leave();
}

static RFORK_UNUSED void rfork_close_pipes(struct rfork_call* call) {
  struct rfork_call** at;
  int i;
  rfork_enter();
  for (i = 0; i < RFORK_ENDS; ++i) rfork_close_end(call, i);
  for (at = &rfork_calls; *at != (void*)0; at = &(*at)->next) {
    if (*at != call) continue;
    *at = call->next;
    break;
  }
  rfork_leave();
}

/* fork(). Of the pipes of all calls, this thread's and other threads', the child has only what
 * rfork-trace reads its pid from. */
static RFORK_UNUSED pid_t rfork_fork(struct rfork_call* call) {
  struct rfork_call* each;
  pid_t child;
  int i;
  rfork_enter();
  child = fork();
  if (child == 0) {
    for (each = rfork_calls; each != (void*)0; each = each->next) {
      for (i = 0; i < RFORK_ENDS; ++i)
        if (each != call || i != 3) rfork_close_end(each, i);
    }
    rfork_calls = (struct rfork_call*)0;
  } else {
    rfork_close_end(call, 3);
  }
  rfork_leave();
  return child;
}

/* `blocked`: those that the caller had blocked. All are now: a handler that calls rfork() too would
 * wait for its own thread. */
static RFORK_UNUSED int rfork_prepare(struct rfork_call* call, const struct rfork_options* options,
                                      int forks, uint64_t blocked) {
  size_t i;
  memset(call, 0, sizeof *call);
  call->program = getenv("RFORK_TRACE");
  if (call->program == (char*)0 || call->program[0] == 0) call->program = "rfork-trace";
  if (rfork_open_pipes(call, forks) != 0) return rfork_fail(errno, "rfork: no pipe can be made");
  rfork_say(call, "rfork-trace");
  rfork_say_number(call, "--report=", (uint64_t)call->ends[1], "");
  if (forks) rfork_say_number(call, "--process-from=", (uint64_t)call->ends[2], "");
  /* A fork has closed the others when rfork-trace hears of it. */
  for (i = forks ? 3 : 0; i < (forks ? 4 : 2); ++i)
    rfork_say_number(call, "--drop-fd=", (uint64_t)call->ends[i], "");
  rfork_say_number(call, "--blocked=", blocked, "");
  if (options == (void*)0) return 0;
  if (options->key != (char*)0) {
    rfork_say(call, "--key");
    rfork_say(call, options->key);
  }
  if (options->time_limit_ms > 0)
    rfork_say_number(call, "--time-limit=", (uint64_t)options->time_limit_ms, "");
  if (options->standard_input) rfork_say(call, "--input");
  for (i = 0; i < options->drop_count; ++i)
    rfork_say_number(call, "--drop-fd=", (uint64_t)options->drop[i], "");
  if (call->argc > RFORK_MAX_ARGUMENTS - 8) {
    rfork_close_pipes(call);
    return rfork_fail(E2BIG, "rfork: too many descriptors are to be dropped");
  }
  return 0;
}

/* "HOST" or "HOST:PORT". */
static RFORK_UNUSED void rfork_say_host(struct rfork_call* call, const char* host, int port,
                                        char* room, size_t size) {
  if (port == 0 || strncmp(host, "ssh:", 4) == 0) { /* ssh's port is not rforkd's */
    rfork_say(call, host);
    return;
  }
  snprintf(room, size, strchr(host, ':') != (char*)0 && host[0] != '[' ? "[%s]:%d" : "%s:%d", host,
           port);
  rfork_say(call, room);
}

/* In place of rfork-trace's answer: why it doesn't run. */
static RFORK_UNUSED void rfork_say_no_trace(const struct rfork_call* call, int32_t error,
                                            int32_t why) {
  const int32_t report[2] = {error, why};
  if (write(call->ends[1], report, sizeof report) < 0) return; /* nobody reads it any more */
}

/* A soft limit of the caller is the caller's; rfork-trace gets as much as it may have, of a stack 8
 * MiB. */
static RFORK_UNUSED void rfork_raise_limits(void) {
  static const struct {
    int resource;
    rlim_t most;
  } kinds[] = {{RLIMIT_AS, RLIM_INFINITY},
               {RLIMIT_DATA, RLIM_INFINITY},
               {RLIMIT_CPU, RLIM_INFINITY},
               {RLIMIT_NOFILE, RLIM_INFINITY},
               {RLIMIT_STACK, 8 << 20}};
  struct rlimit limit;
  size_t i;
  for (i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
    if (getrlimit(kinds[i].resource, &limit) != 0 || limit.rlim_cur >= kinds[i].most) continue;
    limit.rlim_cur = limit.rlim_max < kinds[i].most ? limit.rlim_max : kinds[i].most;
    setrlimit(kinds[i].resource, &limit);
  }
}

/* Whether this process may not have what rfork-trace needs to be loaded. */
static RFORK_UNUSED int rfork_limits_are_low(void) {
  static const struct {
    int resource;
    rlim_t least;
  } kinds[] = {{RLIMIT_AS, 32 << 20}, {RLIMIT_DATA, 8 << 20}, {RLIMIT_STACK, 256 << 10}};
  struct rlimit limit;
  size_t i;
  for (i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
    if (getrlimit(kinds[i].resource, &limit) == 0 && limit.rlim_max < kinds[i].least) return 1;
  }
  return 0;
}

enum {
  RFORK_SHARE = 0x4100,       /* CLONE_VM | CLONE_VFORK: the caller waits, also for an execve() */
  RFORK_STACK_BETWEEN = 16384 /* the upper part of the stack; the lower one is of rfork_run() */
};

/* Becomes rfork-trace. It shares the memory of the caller, with a stack of its own, and does only
 * what is safe in the child of a vfork(). That itself isn't called: AddressSanitizer clears all
 * memory between this stack and the thread's then, and ThreadSanitizer calls fork(). */
static RFORK_UNUSED int rfork_run(void* argument) {
  struct rfork_call* const call = (struct rfork_call*)argument;
  fcntl(call->ends[1], F_SETFD, 0);
  if (call->ends[2] >= 0) fcntl(call->ends[2], F_SETFD, 0);
  rfork_raise_limits();
  execvp(call->program, call->argv);
  rfork_say_no_trace(call, ENOSYS, errno);
  return 127;
}

/* Makes rfork-trace a process whose parent ends. */
static RFORK_UNUSED int rfork_between(void* argument) {
  struct rfork_call* const call = (struct rfork_call*)argument;
  char* const end = call->stack + RFORK_STACK - RFORK_STACK_BETWEEN;
  if (clone(rfork_run, end, RFORK_SHARE | 17 /* SIGCHLD */, call) < 0)
    rfork_say_no_trace(call, errno, errno);
  return 0;
}

/* A shared one doesn't count for RLIMIT_DATA; but where such a clone() is emulated by fork(), it
 * must be private. */
static RFORK_UNUSED char* rfork_map_stack(void) {
  const int ways[] = {MAP_PRIVATE, MAP_SHARED};
  void* stack = MAP_FAILED;
  int i;
  for (i = 0; i < 2 && stack == MAP_FAILED; ++i)
    stack = mmap((void*)0, RFORK_STACK, PROT_READ | PROT_WRITE, ways[i] | 0x20 /* MAP_ANONYMOUS */,
                 -1, 0);
  return (char*)stack;
}

/* Starts rfork-trace as nobody's child. What stands between sends no signal at its end, so a
 * wait(2) or a handler elsewhere in the program doesn't meet it. */
static RFORK_UNUSED void rfork_start(struct rfork_call* call) {
  int between, error;
  call->argv[call->argc] = (char*)0;
  call->stack = rfork_map_stack();
  if (call->stack == (char*)MAP_FAILED) {
    error = errno;
    rfork_say_no_trace(call, error, error);
  } else {
    between = clone(rfork_between, call->stack + RFORK_STACK, RFORK_SHARE, call);
    if (between < 0) rfork_say_no_trace(call, errno, errno);
    if (between > 0) rfork_wait_for(between);
    munmap(call->stack, RFORK_STACK);
  }
  rfork_close_its_ends(call);
}

/* rfork-trace's next answer: its error; or -1 and errno where there is none. */
static RFORK_UNUSED int32_t rfork_read_report(struct rfork_call* call) {
  struct rfork_report report;
  size_t got = 0;
  memset(&report, 0, sizeof report);
  while (got < sizeof report) {
    const ssize_t n = read(call->ends[0], (char*)&report + got, sizeof report - got);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    got += (size_t)n;
  }
  if (call->role != 0) return 0;
  if (got == 2 * sizeof report.error) {
    char text[300];
    int32_t why;
    memcpy(&why, report.text, sizeof why);
    snprintf(text, sizeof text, "%.200s can't be run: %s%s", call->program, strerror(why),
             report.error == ENOSYS ? "; name rfork-trace in RFORK_TRACE, or put it in PATH" : "");
    rfork_fail(report.error, text);
    return report.error;
  }
  if (got < sizeof report.error) {
    const int low = rfork_limits_are_low();
    rfork_fail(low ? ENOMEM : EIO,
               low ? "rfork-trace ended without a word; this process's limits of memory "
                     "(ulimit -Hv, -Hd, -Hs) may be too low for it"
                   : "rfork-trace ended without a word");
    return errno;
  }
  report.text[sizeof report.text - 1] = 0;
  if (report.error > 0) rfork_fail(report.error, report.text);
  return report.error;
}

/* Waits until rfork-trace has reached the destination; 0 or -1 and errno. Nothing has been forked
 * so far: who waits for any child elsewhere in the program meets none. */
static RFORK_UNUSED int rfork_hear_ready(struct rfork_call* call) {
  const int32_t error = rfork_read_report(call);
  if (error == RFORK_READY) return 0;
  rfork_close_pipes(call);
  return error == 0 ? rfork_fail(EIO, "rfork-trace did not wait for the fork") : -1;
}

/* Waits for rfork-trace's last answer; 0 or -1 and errno. A process that woke up elsewhere has no
 * pipe any more: EBADF. */
static RFORK_UNUSED int rfork_hear(struct rfork_call* call) {
  const int32_t error = rfork_read_report(call);
  int i;
  if (call->role != 0) {
    for (i = 0; i < RFORK_ENDS; ++i) call->ends[i] = -1;
  }
  rfork_close_pipes(call);
  if (call->role == 0 && error != 0) return -1;
  rfork_error_text[0] = 0;
  return 0;
}

static RFORK_UNUSED void rfork_say_role(struct rfork_call* call, uint32_t value) {
  rfork_say_number(call, "--role=", (uint64_t)(uintptr_t)&call->role, "");
  rfork_say_number(call, "--role-value=", value, "");
}

/* Lets rfork-trace find the way to `host`. What will be forked there returns as `number`. */
static RFORK_UNUSED void rfork_seek(struct rfork_call* call, const char* host, int port,
                                    uint32_t number) {
  char room[300];
  rfork_say_role(call, number);
  rfork_say(call, "--as-fork");
  rfork_say(call, "0"); /* the pid comes through the pipe */
  rfork_say_host(call, host, port, room, sizeof room);
  rfork_start(call);
}

/* A fork that waits until rfork-trace has taken it away: it returns on the other host only. */
static RFORK_UNUSED pid_t rfork_launch(struct rfork_call* call) {
  int32_t pid;
  const pid_t child = rfork_fork(call);
  if (child != 0) return child;
  prctl(0x59616d61 /* PR_SET_PTRACER */, -1L, 0L, 0L, 0L);
  pid = (int32_t)getpid();
  if (write(call->ends[3], &pid, sizeof pid) < 0) pid = 0; /* the parent hears of it */
  rfork_close_end(call, 3);
  while (call->role == 0)
    syscall(SYS_futex, &call->role, 0 /* FUTEX_WAIT */, 0, (void*)0, (void*)0, 0);
  return 0;
}

/* Waits until the fork has been taken away; 0 or -1 and errno, and then it is gone. */
static RFORK_UNUSED int rfork_hear_of(struct rfork_call* call, pid_t child) {
  int error;
  if (rfork_hear(call) == 0) return 0;
  error = errno;
  syscall(SYS_kill, child, 9);
  rfork_reap(child);
  errno = error;
  return -1;
}

/* rfork_launch() of what is ready, in the parent with the sentence of a failure. */
static RFORK_UNUSED pid_t rfork_launch_ready(struct rfork_call* call) {
  const pid_t child = rfork_launch(call);
  const int error = errno;
  if (child >= 0) return child;
  rfork_close_pipes(call);
  return rfork_fail(error, "rfork: fork() failed");
}

static RFORK_UNUSED pid_t rfork_with(const struct rfork_options* options) {
  struct rfork_call call;
  uint64_t mask;
  pid_t child = -1;
  if (options == (void*)0 || options->size < sizeof(struct rfork_options) ||
      options->host == (char*)0 || options->host[0] == 0) {
    return rfork_fail(EINVAL, "rfork: no host is named");
  }
  if (options->port < 0 || options->port > 65535)
    return rfork_fail(EINVAL, "rfork: there is no such port");
  mask = rfork_block_signals();
  if (rfork_prepare(&call, options, 1, mask) == 0) {
    rfork_seek(&call, options->host, options->port, 1);
    if (rfork_hear_ready(&call) == 0) child = rfork_launch_ready(&call);
    if (child > 0 && rfork_hear_of(&call, child) != 0) child = -1;
  }
  rfork_restore_signals(mask);
  return child;
}

/* 0 in the child, the pid of its ghost in the parent, -1 with errno. */
static RFORK_UNUSED pid_t rfork(const char* host) {
  struct rfork_options options;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.host = host;
  return rfork_with(&options);
}

/* The members of a rfork_many(). */
struct rfork_crowd {
  struct rfork_call* calls;
  pid_t* pids; /* 0: not forked yet; -1: failed */
  struct pollfd* polls;
  int n;
  uint64_t blocked; /* signals that the caller had blocked */
  int error;        /* errno of the last failure; 0: none. Its sentence: */
  char text[sizeof rfork_error_text];
};

static RFORK_UNUSED void rfork_lose_member(struct rfork_crowd* crowd, int i) {
  crowd->error = errno;
  memcpy(crowd->text, rfork_error_text, sizeof crowd->text);
  crowd->pids[i] = -1;
}

static RFORK_UNUSED void rfork_seek_all(struct rfork_crowd* crowd, const char* const hosts[]) {
  int i;
  for (i = 0; i < crowd->n; ++i) {
    crowd->pids[i] = 0;
    if (hosts[i] == (char*)0 || hosts[i][0] == 0) {
      rfork_fail(EINVAL, "rfork: no host is named");
      rfork_lose_member(crowd, i);
    } else if (rfork_prepare(&crowd->calls[i], (struct rfork_options*)0, 1, crowd->blocked) != 0) {
      rfork_lose_member(crowd, i);
    } else {
      rfork_seek(&crowd->calls[i], hosts[i], 0, (uint32_t)i + 1);
    }
  }
}

enum { RFORK_SILENCE_MS = 200 };

/* Waits until all members that aren't forked yet have an answer, or nobody else has had one for a
 * while: so they are forked at one moment, and none for whom another takes long. Gives how many
 * have an answer; their polls[].fd is -1. */
static RFORK_UNUSED int rfork_await_answers(struct rfork_crowd* crowd) {
  int i, silent = 0, answered = 0, limit_ms = -1;
  for (i = 0; i < crowd->n; ++i) {
    crowd->polls[i].fd = crowd->pids[i] == 0 ? crowd->calls[i].ends[0] : -1;
    crowd->polls[i].events = POLLIN;
    silent += crowd->pids[i] == 0;
  }
  while (answered < silent) {
    const int found = poll(crowd->polls, (nfds_t)crowd->n, limit_ms);
    if (found == 0) break;
    for (i = 0; i < crowd->n; ++i) {
      if (crowd->polls[i].fd < 0 || (found > 0 && crowd->polls[i].revents == 0)) continue;
      crowd->polls[i].fd = -1; /* all of them, where poll() fails: to be read in their order */
      ++answered;
    }
    limit_ms = RFORK_SILENCE_MS;
  }
  return answered;
}

/* Gives -1 in the parent when all have been forked or have failed, and in child i i. */
static RFORK_UNUSED int rfork_launch_all(struct rfork_crowd* crowd) {
  int i;
  while (rfork_await_answers(crowd) > 0) {
    for (i = 0; i < crowd->n; ++i) {
      if (crowd->pids[i] != 0 || crowd->polls[i].fd >= 0) continue;
      if (rfork_hear_ready(&crowd->calls[i]) != 0) {
        rfork_lose_member(crowd, i);
        continue;
      }
      crowd->pids[i] = rfork_launch_ready(&crowd->calls[i]);
      if (crowd->pids[i] == 0) return i;
      if (crowd->pids[i] < 0) rfork_lose_member(crowd, i);
    }
  }
  return -1;
}

static RFORK_UNUSED void rfork_hear_all(struct rfork_crowd* crowd) {
  int i;
  for (i = 0; i < crowd->n; ++i) {
    if (crowd->pids[i] > 0 && rfork_hear_of(&crowd->calls[i], crowd->pids[i]) != 0)
      rfork_lose_member(crowd, i);
  }
}

/* As many children as hosts, of one moment, at once. Gives n in the parent, with pids[] filled; -1
 * there when some could not be made, whose pids[i] are -1 (errno and rfork_error() are the last
 * one's). In child i it gives i, from 0 on. */
static RFORK_UNUSED int rfork_many(const char* const hosts[], int n, pid_t pids[]) {
  struct rfork_crowd crowd;
  uint64_t mask;
  int which = -1;
  if (n <= 0) return rfork_fail(EINVAL, "rfork: no host is named");
  crowd.pids = pids;
  crowd.n = n;
  crowd.error = 0;
  crowd.calls = (struct rfork_call*)calloc((size_t)n, sizeof *crowd.calls);
  crowd.polls = (struct pollfd*)calloc((size_t)n, sizeof *crowd.polls);
  mask = crowd.blocked = rfork_block_signals();
  if (crowd.calls == (void*)0 || crowd.polls == (void*)0) {
    rfork_fail(ENOMEM, "rfork: no memory");
    for (which = 0; which < n; ++which) rfork_lose_member(&crowd, which);
    which = -1;
  } else {
    rfork_seek_all(&crowd, hosts);
    which = rfork_launch_all(&crowd);
    if (which < 0) rfork_hear_all(&crowd);
  }
  free(crowd.calls);
  free(crowd.polls);
  rfork_error_text[0] = 0;
  if (which < 0 && crowd.error != 0) {
    rfork_fail(crowd.error, crowd.text);
  } else if (which < 0) {
    which = n;
  }
  rfork_restore_signals(mask);
  return which;
}

/* Lets rfork-trace take this process; 0 here, the role where it woke up again, -1 with errno. */
static RFORK_UNUSED int rfork_take(const char* word, const char* argument) {
  struct rfork_call call;
  const uint64_t mask = rfork_block_signals();
  int error, result = rfork_prepare(&call, (struct rfork_options*)0, 0, mask);
  if (result == 0) {
    rfork_say_role(&call, 1);
    rfork_say(&call, word);
    rfork_say_number(&call, "", (uint64_t)getpid(), "");
    if (strcmp(word, "--exec") == 0) rfork_say(&call, "-o");
    rfork_say(&call, argument);
    prctl(0x59616d61 /* PR_SET_PTRACER */, -1L, 0L, 0L, 0L);
    rfork_start(&call);
    result = rfork_hear(&call);
    error = errno;
    prctl(0x59616d61 /* PR_SET_PTRACER */, 0L, 0L, 0L, 0L);
    errno = error;
  }
  rfork_restore_signals(mask);
  return result != 0 ? -1 : (int)call.role;
}

/* Writes an image of this process that runs by itself. 0 when it is complete, 1 in a process
 * restored from it, -1 with errno. */
static RFORK_UNUSED int rfork_freeze(const char* file) {
  if (file == (char*)0 || file[0] == 0) return rfork_fail(EINVAL, "rfork: no file is named");
  return rfork_take("--exec", file);
}

/* This process goes on on `host`; here its pid stays as the ghost. 0 there, -1 with errno if it
 * stays. */
static RFORK_UNUSED int rfork_move(const char* host) {
  if (host == (char*)0 || host[0] == 0) return rfork_fail(EINVAL, "rfork: no host is named");
  return rfork_take("--move", host) < 0 ? -1 : 0;
}

#ifdef __cplusplus
}
#endif

#endif
