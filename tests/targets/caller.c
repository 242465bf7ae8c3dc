/* One call of rfork_with(), as a script wants it: HOST [NAME=VALUE...], HOST - for none.
 *
 *   key=FILE limit=MS port=N input=1    options of the call
 *   nproc=N                     RLIMIT_NPROC before it; a number that is smaller than what runs:
 *                             nothing more
 *   memory=MIB                  touched before the call, and checked in the child
 *   to=FILE                     for what is said, opened after the call
 *   noted=N ignored=N blocked=N a signal's disposition
 *   soft=R:N hard=R:N           RLIMIT R; soft and hard
 *   child=limits                ends with 42 if it has that limit too
 *   child=exit:N | pause | lines:N | bursts:N,N... | until:FILE | memory | ask | keys
 *                               what the child does
 *
 * Says "failed errno=N ms=N sigchld=N left=N: sentence", or "child PID" and, when that has ended,
 * "ended exit:N|signal:N sigchld=N left=N". Ends with 0 in both cases. */
#include <rfork/rfork.h>

#include <signal.h>
#include <sys/resource.h>
#include <termios.h>
#include <time.h>

static volatile sig_atomic_t child_signals;
static void note_child(int number) {
  (void)number;
  ++child_signals;
}

static int limited;
static struct rlimit limit_set;
static int set_limit(const char* text, int hard) {
  limited = atoi(text);
  if (getrlimit(limited, &limit_set) != 0) return 0;
  limit_set.rlim_cur = strtoull(strchr(text, ':') + 1, NULL, 10);
  if (hard) limit_set.rlim_max = limit_set.rlim_cur;
  return setrlimit(limited, &limit_set) == 0;
}

static void note(int number) {
  (void)number;
}

static void block(int number) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, number);
  sigprocmask(SIG_BLOCK, &set, NULL);
}

static long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char* value_of(const char* argument, const char* name) {
  const size_t size = strlen(name);
  return strncmp(argument, name, size) == 0 && argument[size] == '=' ? argument + size + 1 : NULL;
}

static size_t memory_size;
static unsigned char* memory;

static int work(const char* what) {
  const char* number = strchr(what, ':');
  size_t i;
  if (strncmp(what, "exit", 4) == 0) return atoi(number + 1);
  if (strcmp(what, "limits") == 0) {
    struct rlimit here;
    return getrlimit(limited, &here) == 0 && here.rlim_cur == limit_set.rlim_cur &&
                   here.rlim_max == limit_set.rlim_max
               ? 42
               : 1;
  }
  if (strncmp(what, "lines", 5) == 0) { /* to where the parent writes nothing */
    FILE* out = fdopen(STDERR_FILENO, "w");
    for (i = 0; i < (size_t)atoi(number + 1); ++i) fprintf(out, "line %zu\n", i);
    return fclose(out) == 0 ? 0 : 1;
  }
  if (strncmp(what, "bursts", 6) == 0) { /* each in one write, and time to be passed on between */
    static char letters[1 << 20];
    size_t at = 0;
    for (i = 0; i < sizeof letters; ++i) letters[i] = (char)('a' + i % 26);
    for (;;) {
      const size_t size = (size_t)atoi(number + 1);
      if (write(STDERR_FILENO, letters + at, size) != (ssize_t)size) return 1;
      at += size;
      number = strchr(number + 1, ',');
      if (number == NULL) return 0;
      usleep(100000);
    }
  }
  if (strncmp(what, "until", 5) == 0) {
    while (access(number + 1, F_OK) != 0) usleep(5000);
    printf("until\n");
    return fflush(stdout) == 0 ? 5 : 1;
  }
  if (strcmp(what, "ask") == 0) { /* whoever is at the terminal */
    char answer[32] = "";
    const int terminal = open("/dev/tty", O_RDWR);
    if (write(terminal, "question? ", 10) != 10 || read(terminal, answer, sizeof answer - 1) <= 0)
      return 1;
    return atoi(answer);
  }
  if (strcmp(what, "keys") == 0) { /* single ones, and then nothing of it any more */
    struct termios before, modes;
    char key;
    if (tcgetattr(0, &before) != 0) return 1;
    modes = before;
    modes.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
    if (tcsetattr(0, TCSANOW, &modes) != 0) return 1;
    printf("single\n");
    fflush(stdout);
    do {
      if (read(0, &key, 1) != 1) return 1;
      printf("key %d\n", key);
      fflush(stdout);
    } while (key != 'q');
    if (tcsetattr(0, TCSANOW, &before) != 0) return 1;
    printf("cooked\n");
    fflush(stdout);
  }
  if (strcmp(what, "memory") == 0) {
    for (i = 0; i < memory_size; i += 4096) {
      if (memory[i] != (unsigned char)(1 + i / 4096 % 251)) return 1;
    }
    return 0;
  }
  for (;;) pause();
}

/* Children that nobody waited for; there must be none. */
static int left(void) {
  int count = 0;
  while (waitpid(-1, NULL, WNOHANG) >= 0) ++count;
  return count;
}

int main(int argc, char** argv) {
  struct rfork_options options;
  const char *child_does = "exit:42", *to = NULL, *value;
  pid_t child;
  long began;
  int i, status, error;
  if (argc < 2) return 2;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.host = strcmp(argv[1], "-") == 0 ? NULL : argv[1];
  for (i = 2; i < argc; ++i) {
    if ((value = value_of(argv[i], "key")) != NULL) options.key = value;
    if ((value = value_of(argv[i], "limit")) != NULL) options.time_limit_ms = atoi(value);
    if ((value = value_of(argv[i], "port")) != NULL) options.port = atoi(value);
    if ((value = value_of(argv[i], "input")) != NULL) options.standard_input = atoi(value);
    if ((value = value_of(argv[i], "child")) != NULL) child_does = value;
    if ((value = value_of(argv[i], "noted")) != NULL) signal(atoi(value), note);
    if ((value = value_of(argv[i], "ignored")) != NULL) signal(atoi(value), SIG_IGN);
    if ((value = value_of(argv[i], "blocked")) != NULL) block(atoi(value));
    if ((value = value_of(argv[i], "soft")) != NULL && !set_limit(value, 0)) return 2;
    if ((value = value_of(argv[i], "hard")) != NULL && !set_limit(value, 1)) return 2;
    if ((value = value_of(argv[i], "to")) != NULL) to = value;
    if ((value = value_of(argv[i], "memory")) != NULL) memory_size = (size_t)atoi(value) << 20;
    if ((value = value_of(argv[i], "nproc")) != NULL) {
      struct rlimit limit;
      limit.rlim_cur = limit.rlim_max = (rlim_t)atoi(value);
      if (setrlimit(RLIMIT_NPROC, &limit) != 0) return 2;
    }
  }
  if (memory_size != 0) {
    size_t at;
    memory = (unsigned char*)malloc(memory_size);
    if (memory == NULL) return 2;
    for (at = 0; at < memory_size; at += 4096) memory[at] = (unsigned char)(1 + at / 4096 % 251);
  }
  signal(SIGCHLD, note_child);
  began = now_ms();
  child = rfork_with(&options);
  error = errno;
  if (child == 0) return work(child_does);
  if (to != NULL && freopen(to, "w", stdout) == NULL) return 2;
  if (child < 0) {
    printf("failed errno=%d ms=%ld sigchld=%d left=%d: %s\n", error, now_ms() - began,
           (int)child_signals, left(), rfork_error());
    return 0;
  }
  printf("child %d\n", (int)child);
  fflush(stdout);
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  printf("ended %s:%d sigchld=%d left=%d\n", WIFEXITED(status) ? "exit" : "signal",
         WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), (int)child_signals, left());
  return 0;
}
