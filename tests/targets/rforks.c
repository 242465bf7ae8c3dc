/* Programs that call rfork(): FOLDER CASE HOST [MORE...]. Each verifies the contract of fork(2) in
 * the parent and in the child, and ends with 0 and "ok", or with 1 and a line that says what
 * differs. Compiled as C99 and as C++17. */
#include <rfork/rfork.h>

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>

#define EXPECT(condition)                                                                 \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      fprintf(stderr, "FAIL line %d in %d: not so: %s (errno %d, rfork: %s)\n", __LINE__, \
              (int)getpid(), #condition, errno, rfork_error());                           \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

static const char* host;
static volatile sig_atomic_t child_signals;
static void note_child(int number) {
  (void)number;
  ++child_signals;
}

static int status_of(pid_t child) {
  int status = 0;
  EXPECT(waitpid(child, &status, 0) == child);
  return status;
}

static void test_status(void) {
  const pid_t parent = getpid();
  pid_t child;
  int status;
  signal(SIGCHLD, note_child);
  child = rfork(host);
  EXPECT(child >= 0);
  if (child == 0) {
    EXPECT(getpid() != parent);
    EXPECT(waitpid(-1, &status, 0) == -1 && errno == ECHILD);
    exit(42);
  }
  EXPECT(rfork_error()[0] == 0);
  status = status_of(child);
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 42);
  EXPECT(child_signals == 1);
  EXPECT(waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD);
}

static void test_pipes(void) {
  int to_child[2], to_parent[2], i;
  pid_t child;
  char text[32];
  EXPECT(pipe(to_child) == 0 && pipe(to_parent) == 0);
  EXPECT(write(to_child[1], "before ", 7) == 7);
  child = rfork(host);
  EXPECT(child >= 0);
  if (child == 0) {
    ssize_t n;
    close(to_child[1]);
    close(to_parent[0]);
    while ((n = read(to_child[0], text, sizeof text)) > 0)
      EXPECT(write(to_parent[1], text, (size_t)n) == n);
    exit(n == 0 ? 0 : 1);
  }
  close(to_child[0]);
  close(to_parent[1]);
  for (i = 0; i < 3; ++i) EXPECT(write(to_child[1], "hello ", 6) == 6);
  close(to_child[1]);
  i = 0;
  while (i < 25) {
    const ssize_t n = read(to_parent[0], text + i, sizeof text - (size_t)i);
    EXPECT(n > 0);
    i += (int)n;
  }
  EXPECT(i == 25 && memcmp(text, "before hello hello hello ", 25) == 0);
  EXPECT(read(to_parent[0], text, sizeof text) == 0);
  EXPECT(status_of(child) == 0);
}

static void test_signals(void) {
  const pid_t child = rfork(host);
  int status;
  EXPECT(child >= 0);
  if (child == 0) {
    for (;;) pause();
  }
  EXPECT(kill(child, SIGSTOP) == 0);
  EXPECT(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
  EXPECT(kill(child, SIGCONT) == 0);
  EXPECT(waitpid(child, &status, 8 /* WCONTINUED */) == child);
  EXPECT(kill(child, SIGTERM) == 0);
  status = status_of(child);
  EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

/* What sigqueue() sends along arrives; kill() is still kill(). */
static void test_siginfo(void) {
  sigset_t queued, plain, all;
  union sigval value;
  siginfo_t info;
  pid_t child;
  int i, status;
  sigemptyset(&queued);
  sigaddset(&queued, SIGRTMIN);
  sigaddset(&queued, SIGUSR2);
  sigemptyset(&plain);
  sigaddset(&plain, SIGUSR1);
  all = queued;
  sigaddset(&all, SIGUSR1);
  EXPECT(sigprocmask(SIG_BLOCK, &all, NULL) == 0);
  child = rfork(host);
  EXPECT(child >= 0);
  if (child == 0) {
    EXPECT(sigwaitinfo(&plain, &info) == SIGUSR1 && info.si_code == SI_USER);
    EXPECT(sigwaitinfo(&queued, &info) == SIGUSR2 && info.si_code == SI_QUEUE);
    EXPECT(info.si_value.sival_int == 7 && info.si_uid == getuid());
    for (i = 0; i < 20; ++i) {
      EXPECT(sigwaitinfo(&queued, &info) == SIGRTMIN && info.si_code == SI_QUEUE);
      EXPECT(info.si_value.sival_int == 500 + i && info.si_uid == getuid());
    }
    exit(3);
  }
  value.sival_int = 7;
  EXPECT(sigqueue(child, SIGUSR2, value) == 0);
  for (i = 0; i < 20; ++i) {
    value.sival_int = 500 + i;
    EXPECT(sigqueue(child, SIGRTMIN, value) == 0);
  }
  EXPECT(kill(child, SIGUSR1) == 0);
  status = status_of(child);
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

/* A terminal's stop signals do nothing in an orphaned process group, and stop in any other. */
static void stop_in_session(void) {
  static const int stops[] = {SIGTSTP, SIGTTIN, SIGTTOU};
  int ends[2], status;
  size_t i;
  pid_t child;
  char text;
  EXPECT(setsid() == getpid() && pipe(ends) == 0);
  alarm(60);
  child = rfork(host);
  EXPECT(child >= 0);
  if (child == 0) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    EXPECT(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && write(ends[1], "r", 1) == 1);
    for (;;) {
      siginfo_t info;
      if (sigwaitinfo(&set, &info) == SIGUSR1) EXPECT(write(ends[1], "u", 1) == 1);
    }
  }
  EXPECT(read(ends[0], &text, 1) == 1);
  for (i = 0; i < sizeof stops / sizeof stops[0]; ++i) {
    EXPECT(kill(child, stops[i]) == 0 && kill(child, SIGUSR1) == 0);
    EXPECT(read(ends[0], &text, 1) == 1 && text == 'u');
  }
  EXPECT(kill(child, SIGSTOP) == 0);
  EXPECT(waitpid(child, &status, WUNTRACED) == child && WSTOPSIG(status) == SIGSTOP);
  EXPECT(kill(child, SIGCONT) == 0 && waitpid(child, &status, 8 /* WCONTINUED */) == child);
  EXPECT(setpgid(child, child) == 0);
  for (i = 0; i < sizeof stops / sizeof stops[0]; ++i) {
    EXPECT(kill(child, stops[i]) == 0);
    EXPECT(waitpid(child, &status, WUNTRACED) == child && WSTOPSIG(status) == stops[i]);
    EXPECT(kill(child, SIGCONT) == 0 && waitpid(child, &status, 8 /* WCONTINUED */) == child);
  }
  EXPECT(kill(child, SIGTERM) == 0);
  exit(WTERMSIG(status_of(child)) == SIGTERM ? 0 : 1);
}

static void test_orphaned(void) {
  const pid_t leader = fork();
  EXPECT(leader >= 0);
  if (leader == 0) stop_in_session();
  EXPECT(status_of(leader) == 0);
}

static void test_nested(void) {
  int ends[2];
  char text[8] = "";
  pid_t child;
  EXPECT(pipe(ends) == 0);
  child = rfork(host);
  EXPECT(child >= 0);
  if (child == 0) {
    pid_t grandchild;
    close(ends[0]);
    grandchild = rfork(host);
    EXPECT(grandchild >= 0);
    if (grandchild == 0) {
      EXPECT(write(ends[1], "deep", 4) == 4);
      exit(5);
    }
    exit(WEXITSTATUS(status_of(grandchild)) + 1);
  }
  close(ends[1]);
  EXPECT(read(ends[0], text, sizeof text) == 4 && strcmp(text, "deep") == 0);
  EXPECT(WEXITSTATUS(status_of(child)) == 6);
}

static void test_many(void) {
  const char* hosts[5];
  pid_t pids[5];
  int i, which, seen = 0;
  for (i = 0; i < 5; ++i) hosts[i] = host;
  which = rfork_many(hosts, 5, pids);
  EXPECT(which >= 0);
  if (which < 5) exit(10 + which);
  for (i = 0; i < 5; ++i) {
    const int status = status_of(pids[i]);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 10 + i);
    ++seen;
  }
  EXPECT(seen == 5);
  hosts[3] = "no-such-host.invalid";
  which = rfork_many(hosts, 5, pids);
  if (which >= 0) exit(20 + which);
  EXPECT(which == -1 && errno == EHOSTUNREACH && pids[3] == -1);
  EXPECT(strstr(rfork_error(), hosts[3]) != NULL);
  for (i = 0; i < 5; ++i) {
    if (i != 3) EXPECT(WEXITSTATUS(status_of(pids[i])) == 20 + i);
  }
}

/* One of the hosts takes the connection and says nothing: the others' children don't wait for it.
 */
static void test_many_deaf(void) {
  const int deaf = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address;
  socklen_t size = sizeof address;
  struct timespec before, now;
  char name[32];
  const char* hosts[3];
  pid_t holder, pids[3];
  int which;
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT(bind(deaf, (struct sockaddr*)&address, size) == 0 && listen(deaf, 5) == 0);
  EXPECT(getsockname(deaf, (struct sockaddr*)&address, &size) == 0);
  holder = fork();
  if (holder == 0) {
    for (;;) pause();
  }
  close(deaf);
  snprintf(name, sizeof name, "127.0.0.1:%d", ntohs(address.sin_port));
  hosts[0] = name;
  hosts[1] = hosts[2] = host;
  clock_gettime(CLOCK_MONOTONIC, &before);
  which = rfork_many(hosts, 3, pids);
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (which >= 0) exit(which == 0 || now.tv_sec - before.tv_sec > 3 ? 1 : 30 + which);
  EXPECT(errno == EHOSTUNREACH && pids[0] == -1 && strstr(rfork_error(), name) != NULL);
  EXPECT(WEXITSTATUS(status_of(pids[1])) == 31 && WEXITSTATUS(status_of(pids[2])) == 32);
  kill(holder, SIGKILL);
  status_of(holder);
}

static void* spin(void* stop) {
  while (*(volatile int*)stop == 0) {
    struct timespec pause_ns = {0, 1000000};
    void* block = malloc(1000);
    nanosleep(&pause_ns, NULL);
    free(block);
  }
  return NULL;
}

static int count_threads(void) {
  char line[200];
  int threads = 0;
  FILE* status = fopen("/proc/self/status", "r");
  EXPECT(status != NULL);
  while (fgets(line, sizeof line, status) != NULL) {
    if (strncmp(line, "Threads:", 8) == 0) threads = atoi(line + 8);
  }
  fclose(status);
  return threads;
}

static void test_threads(void) {
  pthread_t threads[4];
  int stop = 0, i, rounds;
  for (i = 0; i < 4; ++i) EXPECT(pthread_create(&threads[i], NULL, spin, &stop) == 0);
  for (rounds = 0; rounds < 5; ++rounds) {
    const pid_t child = rfork(host);
    EXPECT(child >= 0);
    if (child == 0) {
      free(malloc(100));
      exit(count_threads());
    }
    EXPECT(WEXITSTATUS(status_of(child)) == 1);
  }
  stop = 1;
  for (i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
}

/* Not the main thread calls; what it has becomes the child's only one. */
static void* fork_in_thread(void* child) {
  char on_stack[64] = "on the thread's stack";
  *(pid_t*)child = rfork(host);
  if (*(pid_t*)child == 0) {
    EXPECT(syscall(SYS_gettid) == getpid() && count_threads() == 1);
    EXPECT(strcmp(on_stack, "on the thread's stack") == 0);
    exit(7);
  }
  return NULL;
}

static void test_from_thread(void) {
  pthread_t thread, others[2];
  int stop = 0, i;
  pid_t child = -1;
  for (i = 0; i < 2; ++i) EXPECT(pthread_create(&others[i], NULL, spin, &stop) == 0);
  EXPECT(pthread_create(&thread, NULL, fork_in_thread, &child) == 0 &&
         pthread_join(thread, NULL) == 0);
  EXPECT(child > 0 && WEXITSTATUS(status_of(child)) == 7);
  EXPECT(count_threads() == 3);
  stop = 1;
  for (i = 0; i < 2; ++i) pthread_join(others[i], NULL);
}

static int count_descriptors(void) {
  int fd, count = 0;
  for (fd = 0; fd < 256; ++fd) count += fcntl(fd, F_GETFD) != -1;
  return count;
}

static void* fork_and_count(void* expected) {
  const pid_t child = rfork(host);
  EXPECT(child >= 0);
  if (child == 0) exit(count_descriptors() == *(int*)expected ? 7 : 8);
  EXPECT(WEXITSTATUS(status_of(child)) == 7);
  return NULL;
}

enum { OPENED = 200 };
static int opened[OPENED];
static volatile int opened_count;
static void* keep_opening(void* stop) {
  while (*(volatile int*)stop == 0 && opened_count < OPENED) {
    struct timespec pause_ns = {0, 500000};
    opened[opened_count] = open("/dev/null", O_RDONLY);
    ++opened_count;
    nanosleep(&pause_ns, NULL);
  }
  return NULL;
}

/* What another thread opens during the call is the child's too, also under a number that a pipe of
 * the call had. */
static void test_opening(void) {
  pthread_t thread;
  pid_t child;
  int stop = 0, i;
  EXPECT(pthread_create(&thread, NULL, keep_opening, &stop) == 0);
  child = rfork(host);
  EXPECT(child >= 0);
  if (child == 0) {
    for (i = 0; i < opened_count; ++i) EXPECT(fcntl(opened[i], F_GETFD) != -1);
    exit(7);
  }
  stop = 1;
  EXPECT(pthread_join(thread, NULL) == 0);
  EXPECT(WEXITSTATUS(status_of(child)) == 7);
}

/* Threads call at the same moment: no child has another one's descriptors. */
static void test_at_once(void) {
  pthread_t threads[6];
  int i, rounds, expected = count_descriptors();
  for (rounds = 0; rounds < 3; ++rounds) {
    for (i = 0; i < 6; ++i)
      EXPECT(pthread_create(&threads[i], NULL, fork_and_count, &expected) == 0);
    for (i = 0; i < 6; ++i) EXPECT(pthread_join(threads[i], NULL) == 0);
  }
  EXPECT(count_descriptors() == expected && count_threads() == 1);
}

/* The child has ended long before its parent asks. */
static void test_early(void) {
  siginfo_t info;
  pid_t child;
  int i, status;
  signal(SIGCHLD, note_child);
  child = rfork(host);
  EXPECT(child >= 0);
  if (child == 0) _exit(3);
  memset(&info, 0, sizeof info);
  while (waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) != 0) EXPECT(errno == EINTR);
  for (i = 0; i < 3; ++i) {
    EXPECT(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
    EXPECT(info.si_pid == child && info.si_code == CLD_EXITED && info.si_status == 3);
  }
  EXPECT(kill(child, 0) == 0 &&
         kill(child, SIGTERM) == 0); /* a zombie takes a signal, and nothing comes of it */
  status = status_of(child);
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 3 && child_signals == 1);
  EXPECT(kill(child, 0) == -1 && errno == ESRCH);
}

enum { CROWD = 200, AT_A_TIME = 8 };
static void test_crowd(void) {
  pid_t children[AT_A_TIME];
  int numbers[AT_A_TIME], made = 0, ended = 0, i, status;
  for (i = 0; i < AT_A_TIME; ++i) children[i] = 0;
  while (ended < CROWD) {
    for (i = 0; i < AT_A_TIME && made < CROWD; ++i) {
      if (children[i] != 0) continue;
      children[i] = rfork(host);
      EXPECT(children[i] >= 0);
      if (children[i] == 0) {
        struct timespec pause_ns = {
            0, 40000000L * (made % AT_A_TIME)}; /* so that some live at the same time */
        nanosleep(&pause_ns, NULL);
        exit(made);
      }
      numbers[i] = made++;
    }
    {
      const pid_t child = waitpid(-1, &status, 0);
      EXPECT(child > 0);
      for (i = 0; i < AT_A_TIME && children[i] != child; ++i) {
      }
      EXPECT(i < AT_A_TIME && WIFEXITED(status) && WEXITSTATUS(status) == numbers[i]);
      children[i] = 0;
      ++ended;
    }
  }
  EXPECT(waitpid(-1, &status, 0) == -1 && errno == ECHILD);
}

static void test_move(void) {
  static char name[300], there[300];
  FILE* file = fopen("/proc/sys/kernel/hostname", "r");
  EXPECT(file != NULL && fgets(name, sizeof name, file) != NULL);
  fclose(file);
  EXPECT(rfork_move(host) == 0);
  file = fopen("/proc/sys/kernel/hostname", "r");
  EXPECT(file != NULL && fgets(there, sizeof there, file) != NULL);
  fclose(file);
  printf("ok\n");
  exit(33);
}

static void fails(const char* where, int error, const char* sentence) {
  const pid_t child = rfork(where);
  int status;
  if (child == 0) exit(0);
  if (child != -1 || errno != error || strstr(rfork_error(), sentence) == NULL) {
    fprintf(stderr,
            "FAIL: rfork(\"%s\") gives %d, errno %d, \"%s\"; errno %d and \"%s\" were expected\n",
            where, (int)child, errno, rfork_error(), error, sentence);
    exit(1);
  }
  EXPECT(waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD);
  EXPECT(child_signals == 0);
}

static void test_errors(void) {
  char closed[64];
  int event;
  signal(SIGCHLD, note_child);
  EXPECT(rfork(NULL) == -1 && errno == EINVAL);
  fails("", EINVAL, "no host");
  fails("no-such-host.invalid", EHOSTUNREACH, "no-such-host.invalid");
  fails("127.0.0.1:0", EINVAL, "port");
  fails("127.0.0.1:70000", EINVAL, "port");
  snprintf(closed, sizeof closed, "127.0.0.1:1");
  fails(closed, EHOSTUNREACH, "127.0.0.1:1");
  event = (int)syscall(SYS_pidfd_open, getppid(), 0);
  EXPECT(event >= 0);
  fails(host, ENOTSUP, "a pidfd");
  {
    struct rfork_options options;
    pid_t child;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.host = host;
    options.drop = &event;
    options.drop_count = 1;
    child = rfork_with(&options);
    if (child == 0) exit(fcntl(event, F_GETFD) == -1 ? 8 : 9);
    EXPECT(child > 0 && WEXITSTATUS(status_of(child)) == 8);
    child_signals = 0;
    options.key = "/nonexistent/key";
    EXPECT(rfork_with(&options) == -1);
    options.size = 3;
    EXPECT(rfork_with(&options) == -1 && errno == EINVAL);
  }
  close(event);
  setenv("RFORK_TRACE", "/nonexistent/rfork-trace", 1);
  fails(host, ENOSYS, "RFORK_TRACE");
  setenv("RFORK_TRACE", "/bin/true", 1);
  fails(host, EIO, "without a word");
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {{"status", test_status},     {"pipes", test_pipes},
               {"signals", test_signals},   {"siginfo", test_siginfo},
               {"orphaned", test_orphaned}, {"nested", test_nested},
               {"many", test_many},         {"many-deaf", test_many_deaf},
               {"threads", test_threads},   {"from-thread", test_from_thread},
               {"opening", test_opening},   {"at-once", test_at_once},
               {"early", test_early},       {"crowd", test_crowd},
               {"move", test_move},         {"errors", test_errors}};
  size_t i;
  if (argc < 4) return 2;
  host = argv[3];
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    if (strcmp(cases[i].name, argv[2]) != 0) continue;
    cases[i].run();
    printf("ok\n");
    return 0;
  }
  return 2;
}
