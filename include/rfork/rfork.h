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
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#else
/* Strict C99 hides these. */
extern long syscall(long number, ...);
extern pid_t vfork(void);
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
  int32_t error; /* an errno; 0: done */
  char text[1020];
};

enum { RFORK_MAX_ARGUMENTS = 64 };

/* A call of rfork-trace, prepared before anything is forked. */
struct rfork_call {
  const char* program;
  char* argv[RFORK_MAX_ARGUMENTS];
  int argc;
  char numbers[RFORK_MAX_ARGUMENTS][40];
  int number_count;
  int report[2]; /* a pipe; -1: closed */
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

/* The pipe for rfork-trace's answer. */
static RFORK_UNUSED int rfork_open_report(struct rfork_call* call) {
  int i, result;
  rfork_enter();
  result = pipe(call->report);
  if (result == 0) {
    for (i = 0; i < 2; ++i) fcntl(call->report[i], F_SETFD, FD_CLOEXEC);
    call->next = rfork_calls;
    rfork_calls = call;
  }
  rfork_leave();
  return result;
}

static RFORK_UNUSED void rfork_close_end(struct rfork_call* call, int end) {
  if (call->report[end] >= 0) close(call->report[end]);
  call->report[end] = -1;
}

/* rfork-trace has its end now. */
static RFORK_UNUSED void rfork_close_writer(struct rfork_call* call) {
  rfork_enter();
  rfork_close_end(call, 1);
  rfork_leave();
}

static RFORK_UNUSED void rfork_close_report(struct rfork_call* call) {
  struct rfork_call** at;
  rfork_enter();
  rfork_close_end(call, 0);
  rfork_close_end(call, 1);
  for (at = &rfork_calls; *at != (void*)0; at = &(*at)->next) {
    if (*at != call) continue;
    *at = call->next;
    break;
  }
  rfork_leave();
}

/* fork(). The child has no report of another call: not one of this thread's, not another
 * thread's. */
static RFORK_UNUSED pid_t rfork_fork(struct rfork_call* call) {
  struct rfork_call* other;
  pid_t child;
  rfork_enter();
  child = fork();
  if (child == 0) {
    for (other = rfork_calls; other != (void*)0; other = other->next) {
      if (other == call) continue;
      rfork_close_end(other, 0);
      rfork_close_end(other, 1);
    }
    rfork_calls = (struct rfork_call*)0;
  }
  rfork_leave();
  return child;
}

/* Signals are blocked: a handler that calls rfork() too would wait for its own thread. */
static RFORK_UNUSED int rfork_prepare(struct rfork_call* call,
                                      const struct rfork_options* options) {
  size_t i;
  memset(call, 0, sizeof *call);
  call->program = getenv("RFORK_TRACE");
  if (call->program == (char*)0 || call->program[0] == 0) call->program = "rfork-trace";
  if (rfork_open_report(call) != 0) return rfork_fail(errno, "rfork: no pipe can be made");
  rfork_say(call, "rfork-trace");
  rfork_say_number(call, "--report=", (uint64_t)call->report[1], "");
  for (i = 0; i < 2; ++i) rfork_say_number(call, "--drop-fd=", (uint64_t)call->report[i], "");
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
    rfork_close_report(call);
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
  if (write(call->report[1], report, sizeof report) < 0) return; /* nobody reads it any more */
}

/* Makes rfork-trace a process whose parent ends. Only what is safe in the child of a vfork() is
 * done here, and nothing that doesn't return: AddressSanitizer would look for this stack's other
 * end. */
static RFORK_UNUSED int rfork_between(void* argument) {
  struct rfork_call* const call = (struct rfork_call*)argument;
  const pid_t trace = vfork();
  if (trace == 0) {
    fcntl(call->report[1], F_SETFD, 0);
    execvp(call->program, call->argv);
    rfork_say_no_trace(call, ENOSYS, errno);
    syscall(SYS_exit_group, 127);
  }
  if (trace < 0) rfork_say_no_trace(call, errno, errno);
  return 0;
}

enum { RFORK_STACK = 65536 };

/* Starts rfork-trace as nobody's child. What stands between sends no signal at its end, so a
 * wait(2) or a handler elsewhere in the program doesn't meet it. */
static RFORK_UNUSED void rfork_start(struct rfork_call* call) {
  char* const stack = (char*)mmap((void*)0, RFORK_STACK, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | 0x20 /* MAP_ANONYMOUS */, -1, 0);
  const int error = errno;
  int between = -1;
  call->argv[call->argc] = (char*)0;
  prctl(0x59616d61 /* PR_SET_PTRACER */, -1L, 0L, 0L, 0L);
  if (stack == (char*)MAP_FAILED) {
    rfork_say_no_trace(call, error, error);
  } else {
    between = clone(rfork_between, stack + RFORK_STACK, 0x4100 /* CLONE_VM | CLONE_VFORK */, call);
    if (between < 0) rfork_say_no_trace(call, errno, errno);
    if (between > 0) rfork_wait_for(between);
    munmap(stack, RFORK_STACK);
  }
  rfork_close_writer(call);
}

/* rfork-trace's answer; 0 or -1 and errno. A process that woke up elsewhere has no pipe any more:
 * EBADF. */
static RFORK_UNUSED int rfork_hear(struct rfork_call* call) {
  struct rfork_report report;
  size_t got = 0;
  memset(&report, 0, sizeof report);
  while (got < sizeof report) {
    const ssize_t n = read(call->report[0], (char*)&report + got, sizeof report - got);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    got += (size_t)n;
  }
  if (call->role != 0) call->report[0] = call->report[1] = -1;
  rfork_close_report(call);
  if (call->role != 0) return 0;
  if (got == 2 * sizeof report.error) {
    char text[300];
    int32_t why;
    memcpy(&why, report.text, sizeof why);
    snprintf(text, sizeof text, "%.200s can't be run: %s%s", call->program, strerror(why),
             report.error == ENOSYS ? "; name rfork-trace in RFORK_TRACE, or put it in PATH" : "");
    return rfork_fail(report.error, text);
  }
  if (got < sizeof report.error) return rfork_fail(EIO, "rfork-trace ended without a word");
  report.text[sizeof report.text - 1] = 0;
  if (report.error != 0) return rfork_fail(report.error, report.text);
  rfork_error_text[0] = 0;
  return 0;
}

/* A fork that waits until rfork-trace has taken it away: it returns on the other host only, as
 * `number`. */
static RFORK_UNUSED pid_t rfork_launch(struct rfork_call* call, const char* host, int port,
                                       uint32_t number) {
  char room[300];
  pid_t child = rfork_fork(call);
  if (child != 0) return child;
  rfork_say_number(call, "--role=", (uint64_t)(uintptr_t)&call->role, "");
  rfork_say_number(call, "--role-value=", number, "");
  rfork_say(call, "--as-fork");
  rfork_say_number(call, "", (uint64_t)getpid(), "");
  rfork_say_host(call, host, port, room, sizeof room);
  rfork_close_end(call, 0);
  rfork_start(call);
  while (call->role == 0)
    syscall(SYS_futex, &call->role, 0 /* FUTEX_WAIT */, 0, (void*)0, (void*)0, 0);
  return 0;
}

static RFORK_UNUSED pid_t rfork_with(const struct rfork_options* options) {
  struct rfork_call call;
  uint64_t mask;
  pid_t child;
  int error;
  if (options == (void*)0 || options->size < sizeof(struct rfork_options) ||
      options->host == (char*)0 || options->host[0] == 0) {
    return rfork_fail(EINVAL, "rfork: no host is named");
  }
  if (options->port < 0 || options->port > 65535)
    return rfork_fail(EINVAL, "rfork: there is no such port");
  mask = rfork_block_signals();
  if (rfork_prepare(&call, options) != 0) {
    rfork_restore_signals(mask);
    return -1;
  }
  child = rfork_launch(&call, options->host, options->port, 1);
  if (child <= 0) {
    error = errno;
    if (child < 0) rfork_close_report(&call);
    rfork_restore_signals(mask);
    return child == 0 ? 0 : rfork_fail(error, "rfork: fork() failed");
  }
  rfork_close_writer(&call);
  if (rfork_hear(&call) != 0) {
    error = errno;
    syscall(SYS_kill, child, 9);
    rfork_reap(child);
    child = -1;
    errno = error;
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

/* As many children as hosts, of one moment, at once. Gives n in the parent, with pids[] filled; -1
 * there when some could not be made, whose pids[i] are -1 (errno and rfork_error() are the last
 * one's). In child i it gives i, from 0 on. */
static RFORK_UNUSED int rfork_many(const char* const hosts[], int n, pid_t pids[]) {
  struct rfork_call* calls;
  uint64_t mask;
  int i, failed = 0, error = 0;
  if (n <= 0) return rfork_fail(EINVAL, "rfork: no host is named");
  calls = (struct rfork_call*)calloc((size_t)n, sizeof *calls);
  if (calls == (void*)0) return rfork_fail(ENOMEM, "rfork: no memory");
  mask = rfork_block_signals();
  for (i = 0; i < n; ++i) {
    pids[i] = -1;
    if (hosts[i] == (char*)0 || hosts[i][0] == 0) {
      failed = 1, error = EINVAL;
      rfork_fail(EINVAL, "rfork: no host is named");
      continue;
    }
    if (rfork_prepare(&calls[i], (struct rfork_options*)0) != 0) {
      failed = 1, error = errno;
      continue;
    }
    pids[i] = rfork_launch(&calls[i], hosts[i], 0, (uint32_t)i + 1);
    if (pids[i] == 0) {
      free(calls);
      rfork_restore_signals(mask);
      return i;
    }
    error = pids[i] < 0 ? errno : error;
    rfork_close_writer(&calls[i]);
    if (pids[i] < 0) {
      failed = 1;
      rfork_close_report(&calls[i]);
      rfork_fail(error, "rfork: fork() failed");
    }
  }
  for (i = 0; i < n; ++i) {
    if (pids[i] <= 0 || rfork_hear(&calls[i]) == 0) continue;
    failed = 1, error = errno;
    syscall(SYS_kill, pids[i], 9);
    rfork_reap(pids[i]);
    pids[i] = -1;
  }
  free(calls);
  errno = error;
  rfork_restore_signals(mask);
  return failed ? -1 : n;
}

/* Lets rfork-trace take this process; 0 here, the role where it woke up again, -1 with errno. */
static RFORK_UNUSED int rfork_take(const char* word, const char* argument) {
  struct rfork_call call;
  const uint64_t mask = rfork_block_signals();
  int error, result = rfork_prepare(&call, (struct rfork_options*)0);
  if (result == 0) {
    rfork_say_number(&call, "--role=", (uint64_t)(uintptr_t)&call.role, "");
    rfork_say_number(&call, "--role-value=", 1, "");
    rfork_say(&call, word);
    rfork_say_number(&call, "", (uint64_t)getpid(), "");
    if (strcmp(word, "--exec") == 0) rfork_say(&call, "-o");
    rfork_say(&call, argument);
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
