/* What a child of rfork() inherits and its parent has the other end of: relayed FOLDER CASE HOST
 *
 * Each case does what a program does around fork(), and holds for fork(), too (HOST "local"). Says
 * "ok", or what is wrong. */
#include <rfork/rfork.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

static const char* host;

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      printf("line %d: %s (errno %d) %s\n", __LINE__, #condition, errno, rfork_error()); \
      fflush(stdout);                                                                    \
      _exit(1);                                                                          \
    }                                                                                    \
  } while (0)

static void pause_ms(int ms) {
  poll(NULL, 0, ms);
}

static pid_t make_child(void) {
  pid_t child;
  fflush(stdout);
  child = strcmp(host, "local") == 0 ? fork() : rfork(host);
  CHECK(child >= 0);
  return child;
}

static void expect_exit(pid_t child, int code) {
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

static ssize_t read_all(int fd, void* to, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(fd, (char*)to + done, size - done);
    if (n < 0) return n;
    if (n == 0) break;
    done += (size_t)n;
  }
  return (ssize_t)done;
}

static int events_of(int fd, int events, int ms) {
  struct pollfd entry;
  entry.fd = fd;
  entry.events = (short)events;
  return poll(&entry, 1, ms) < 0 ? -1 : entry.revents;
}

/* A child closes the parent's end, and its own later: the parent's is as it was. */
static void test_pair(void) {
  int ends[2], again;
  char word[8];
  pid_t child;
  for (again = 0; again < 5; ++again) {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    child = make_child();
    if (child == 0) {
      close(ends[0]);
      CHECK(read_all(ends[1], word, 4) == 4 && memcmp(word, "ping", 4) == 0);
      CHECK(write(ends[1], "pong", 4) == 4);
      CHECK(read(ends[1], word, 1) == 0);
      close(ends[1]);
      _exit(3);
    }
    close(ends[1]);
    pause_ms(100);
    CHECK(write(ends[0], "ping", 4) == 4);
    CHECK(read_all(ends[0], word, 4) == 4 && memcmp(word, "pong", 4) == 0);
    CHECK(shutdown(ends[0], SHUT_WR) == 0);
    CHECK(read(ends[0], word, 1) == 0);
    expect_exit(child, 3);
    close(ends[0]);
  }
}

/* What the parent shares with a child that has closed it, or has ended, still works. */
static void test_shared_pair(void) {
  int ends[2];
  char word[8];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  const pid_t child = make_child();
  if (child == 0) {
    close(ends[0]);
    CHECK(write(ends[1], "child", 5) == 5);
    close(ends[1]);
    pause_ms(300);
    _exit(3);
  }
  CHECK(read_all(ends[0], word, 5) == 5 && memcmp(word, "child", 5) == 0);
  pause_ms(100);
  CHECK(events_of(ends[0], POLLIN, 0) == 0);
  CHECK(write(ends[0], "a", 1) == 1 && read(ends[1], word, 1) == 1);
  CHECK(write(ends[1], "b", 1) == 1 && read(ends[0], word, 1) == 1);
  expect_exit(child, 3);
  CHECK(events_of(ends[0], POLLIN, 0) == 0);
  CHECK(write(ends[0], "a", 1) == 1 && read(ends[1], word, 1) == 1);
  CHECK(write(ends[1], "b", 1) == 1 && read(ends[0], word, 1) == 1);
}

/* shutdown() is none of these: it is seen on every descriptor, and a close as a hang-up. */
static void test_shut_pair(void) {
  int ends[2];
  char letter;
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  const pid_t child = make_child();
  if (child == 0) {
    close(ends[0]);
    const int seen = events_of(ends[1], POLLIN | POLLRDHUP, 5000);
    CHECK((seen & POLLRDHUP) != 0 && (seen & POLLHUP) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    CHECK(shutdown(ends[1], SHUT_WR) == 0);
    CHECK((events_of(ends[1], 0, 5000) & POLLHUP) != 0);
    pause_ms(500);
    _exit(3);
  }
  pause_ms(100);
  CHECK(shutdown(ends[0], SHUT_WR) == 0);
  CHECK(read(ends[0], &letter, 1) == 1);
  CHECK(read(ends[0], &letter, 1) == 0); /* while ends[1] is open here */
  expect_exit(child, 3);
  close(ends[1]);
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  const pid_t other = make_child();
  if (other == 0) {
    close(ends[0]);
    CHECK((events_of(ends[1], POLLIN, 5000) & POLLHUP) != 0);
    CHECK(write(ends[1], "x", 1) == -1 && errno == EPIPE);
    _exit(3);
  }
  close(ends[1]);
  pause_ms(100);
  close(ends[0]);
  expect_exit(other, 3);
}

/* Ways to read 4 bytes: in the child itself, or in what it makes of itself. */
static void read_blocking(int fd, char* word) {
  CHECK(read_all(fd, word, 4) == 4);
}

static void read_non_blocking(int fd, char* word) {
  int tries;
  CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
  for (tries = 0; tries < 500 && read(fd, word, 4) < 0; ++tries) pause_ms(10);
  CHECK(tries < 500);
}

static void read_asking(int fd, char* word) {
  int tries, waiting = 0;
  for (tries = 0; tries < 500 && waiting != 4; ++tries) {
    CHECK(ioctl(fd, FIONREAD, &waiting) == 0);
    pause_ms(10);
  }
  CHECK(waiting == 4 && (events_of(fd, POLLIN, 0) & POLLIN) != 0 && read(fd, word, 4) == 4);
}

static void read_by_signal(int fd, char* word) {
  const struct timespec patience = {5, 0};
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGIO);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  CHECK(fcntl(fd, F_SETOWN, getpid()) == 0 && fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
  if (read(fd, word, 4) == 4) return;
  CHECK(sigtimedwait(&signals, NULL, &patience) == SIGIO);
  CHECK(read(fd, word, 4) == 4);
}

static void read_in_orphan(int fd, char* word) {
  const pid_t between = fork();
  if (between == 0 && fork() != 0) _exit(0);
  if (between != 0) _exit(3);
  pause_ms(200);
  read_blocking(fd, word);
}

static void read_in_next(int fd, char* word) {
  const pid_t next = make_child();
  if (next != 0) {
    expect_exit(next, 3);
    _exit(3);
  }
  read_blocking(fd, word);
}

static void read_elsewhere(int fd, char* word) {
  CHECK(strcmp(host, "local") == 0 || rfork_move(host) == 0);
  read_blocking(fd, word);
}

typedef void (*Reader)(int fd, char* word);

static void echo_by(Reader reader, int parent_keeps_end) {
  int there[2], back[2];
  char word[4];
  pid_t child;
  CHECK(pipe(there) == 0 && pipe(back) == 0);
  child = make_child();
  if (child == 0) {
    close(there[1]);
    close(back[0]);
    reader(there[0], word);
    CHECK(write(back[1], word, 4) == 4);
    _exit(3);
  }
  close(back[1]);
  if (!parent_keeps_end) close(there[0]);
  pause_ms(300);
  CHECK(write(there[1], "ping", 4) == 4);
  CHECK((events_of(back[0], POLLIN, 10000) & POLLIN) != 0);
  CHECK(read_all(back[0], word, 4) == 4 && memcmp(word, "ping", 4) == 0);
  expect_exit(child, 3);
  close(there[1]);
  close(back[0]);
  if (parent_keeps_end) close(there[0]);
}

static void test_readers(void) {
  static const Reader readers[] = {read_blocking,  read_non_blocking, read_asking,   read_by_signal,
                                   read_in_orphan, read_in_next,      read_elsewhere};
  size_t i;
  for (i = 0; i < sizeof readers / sizeof readers[0]; ++i) echo_by(readers[i], 0);
}

/* While the parent could read, too. */
static void test_shared_readers(void) {
  static const Reader readers[] = {read_blocking, read_non_blocking, read_by_signal, read_in_orphan,
                                   read_in_next};
  size_t i;
  for (i = 0; i < sizeof readers / sizeof readers[0]; ++i) echo_by(readers[i], 1);
}

/* A child takes what it reads, and no more. */
static void test_queue(void) {
  static const char text[] = "one\ntwo\nthree\n";
  int ends[2], round;
  long job, next;
  char letter, rest[16];
  pid_t child;
  for (round = 0; round < 2; ++round) { /* there before, or written after */
    CHECK(pipe(ends) == 0);
    for (job = 0; round == 0 && job < 10; ++job)
      CHECK(write(ends[1], &job, sizeof job) == sizeof job);
    child = make_child();
    if (child == 0) {
      CHECK(read(ends[0], &job, sizeof job) == sizeof job && job == 0);
      _exit(3);
    }
    for (job = 0; round == 1 && job < 10; ++job)
      CHECK(write(ends[1], &job, sizeof job) == sizeof job);
    expect_exit(child, 3);
    close(ends[1]);
    for (next = 1; read_all(ends[0], &job, sizeof job) == sizeof job; ++next) CHECK(job == next);
    CHECK(next == 10);
    close(ends[0]);
  }
  CHECK(pipe(ends) == 0 && write(ends[1], text, sizeof text - 1) == sizeof text - 1);
  child = make_child();
  if (child == 0) {
    do CHECK(read(ends[0], &letter, 1) == 1);
    while (letter != '\n');
    _exit(3);
  }
  expect_exit(child, 3);
  close(ends[1]);
  CHECK(read_all(ends[0], rest, sizeof rest) == 10 && memcmp(rest, "two\nthree\n", 10) == 0);
}

/* What a child was given and left unread is the others' again. */
static void test_unread(void) {
  int ends[2];
  long job, next;
  pid_t child;
  CHECK(pipe(ends) == 0);
  for (job = 0; job < 10; ++job) CHECK(write(ends[1], &job, sizeof job) == sizeof job);
  child = make_child();
  if (child == 0) {
    CHECK((events_of(ends[0], POLLIN, 5000) & POLLIN) != 0);
    CHECK(read(ends[0], &job, sizeof job) == sizeof job && job == 0);
    _exit(3);
  }
  expect_exit(child, 3);
  close(ends[1]);
  for (next = 1; read_all(ends[0], &job, sizeof job) == sizeof job; ++next) CHECK(job == next);
  CHECK(next == 10);
}

/* Several children at one queue share the work, and each job is done once. */
static void test_workers(void) {
  enum { kWorkers = 4, kJobs = 60 };
  int jobs[2], results[2], done[kJobs] = {0}, i, status, least = kJobs;
  pid_t workers[kWorkers];
  long job;
  CHECK(pipe(jobs) == 0 && pipe(results) == 0);
  for (i = 0; i < kWorkers; ++i) {
    workers[i] = make_child();
    if (workers[i] != 0) continue;
    int count = 0;
    close(jobs[1]);
    close(results[0]);
    for (; read(jobs[0], &job, sizeof job) == sizeof job; ++count) {
      pause_ms(20);
      CHECK(write(results[1], &job, sizeof job) == sizeof job);
    }
    _exit(count);
  }
  close(jobs[0]);
  close(results[1]);
  for (job = 0; job < kJobs; ++job) CHECK(write(jobs[1], &job, sizeof job) == sizeof job);
  close(jobs[1]);
  while (read_all(results[0], &job, sizeof job) == sizeof job) ++done[job];
  for (i = 0; i < kJobs; ++i) CHECK(done[i] == 1);
  for (i = 0; i < kWorkers; ++i) {
    CHECK(waitpid(workers[i], &status, 0) == workers[i] && WIFEXITED(status));
    if (WEXITSTATUS(status) < least) least = WEXITSTATUS(status);
  }
  CHECK(least > 0);
}

/* After wait() a pipe has all of the child's words, and then its end. */
static void test_end(void) {
  int ends[2], i;
  char word[8];
  for (i = 0; i < 25; ++i) {
    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    const pid_t child = make_child();
    if (child == 0) {
      CHECK(write(ends[1], "result", 6) == 6);
      _exit(3);
    }
    close(ends[1]);
    expect_exit(child, 3);
    const ssize_t n = read(ends[0], word, sizeof word);
    if (n != 6) printf("child %d, %d bytes\n", i, (int)n);
    CHECK(n == 6);
    CHECK(read(ends[0], word, sizeof word) == 0);
    close(ends[0]);
  }
}

/* Lines of several writers stay whole. */
static void test_lines(void) {
  enum { kWriters = 3, kLines = 10000, kSize = 100 };
  int ends[2], i, lines;
  pid_t writers[kWriters];
  char line[kSize + 2];
  FILE* reader;
  CHECK(pipe(ends) == 0);
  for (i = 0; i < kWriters; ++i) {
    writers[i] = make_child();
    if (writers[i] != 0) continue;
    close(ends[0]);
    memset(line, 'a' + i, kSize);
    line[kSize - 1] = '\n';
    for (lines = 0; lines < kLines; ++lines) CHECK(write(ends[1], line, kSize) == kSize);
    _exit(3);
  }
  close(ends[1]);
  reader = fdopen(ends[0], "r");
  for (lines = 0; fgets(line, sizeof line, reader) != NULL; ++lines) {
    CHECK(strlen(line) == kSize && strspn(line, (char[]){line[0], 0}) == kSize - 1);
    if (lines % 500 == 0) pause_ms(1); /* so that the writers wait */
  }
  CHECK(lines == kWriters * kLines);
  for (i = 0; i < kWriters; ++i) expect_exit(writers[i], 3);
}

static int open_again(int fd, int flags) {
  char name[32];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  return open(name, flags);
}

/* Two descriptions of each end of one pipe. */
static void test_order(void) {
  int ends[2], writer, reader, i;
  struct stat first, second;
  char letter;
  pid_t child;
  CHECK(pipe(ends) == 0);
  writer = open_again(ends[1], O_WRONLY | O_NONBLOCK);
  child = make_child();
  if (child == 0) {
    close(ends[0]);
    CHECK(fstat(writer, &first) == 0 && fstat(ends[1], &second) == 0);
    CHECK(first.st_ino == second.st_ino);
    CHECK((fcntl(writer, F_GETFL) & O_NONBLOCK) != 0 &&
          (fcntl(ends[1], F_GETFL) & O_NONBLOCK) == 0);
    for (i = 0; i < 1000; ++i) {
      letter = (char)i;
      CHECK(write(i % 2 != 0 ? writer : ends[1], &letter, 1) == 1);
      if (i == 500) close(ends[1]), ends[1] = writer;
    }
    _exit(3);
  }
  close(ends[1]);
  close(writer);
  for (i = 0; i < 1000; ++i) CHECK(read(ends[0], &letter, 1) == 1 && letter == (char)i);
  CHECK(read(ends[0], &letter, 1) == 0);
  expect_exit(child, 3);

  CHECK(pipe(ends) == 0);
  reader = open_again(ends[0], O_RDONLY);
  child = make_child();
  if (child == 0) {
    close(ends[1]);
    for (i = 0; i < 10; ++i)
      CHECK(read(i % 2 != 0 ? reader : ends[0], &letter, 1) == 1 && letter == (char)i);
    _exit(3);
  }
  close(ends[0]);
  close(reader);
  for (letter = 0; letter < 10; ++letter) CHECK(write(ends[1], &letter, 1) == 1);
  expect_exit(child, 3);
}

static void test_pipe_size(void) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  const int size = fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
  const pid_t child = make_child();
  if (child == 0) {
    CHECK(fcntl(ends[1], F_GETPIPE_SZ) == size && fcntl(ends[0], F_GETPIPE_SZ) == size);
    _exit(3);
  }
  expect_exit(child, 3);
}

/* Both ends of a TCP connection. */
static void connect_tcp(int family, int* ours, int* theirs) {
  struct sockaddr_storage name;
  socklen_t size = sizeof name;
  const int listening = socket(family, SOCK_STREAM, 0);
  memset(&name, 0, sizeof name);
  name.ss_family = (sa_family_t)family;
  if (family == AF_INET) ((struct sockaddr_in*)&name)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (family == AF_INET6) ((struct sockaddr_in6*)&name)->sin6_addr = in6addr_loopback;
  CHECK(bind(listening, (struct sockaddr*)&name,
             family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)) == 0);
  CHECK(listen(listening, 1) == 0);
  CHECK(getsockname(listening, (struct sockaddr*)&name, &size) == 0);
  *ours = socket(family, SOCK_STREAM, 0);
  CHECK(connect(*ours, (struct sockaddr*)&name, size) == 0);
  *theirs = accept(listening, NULL, NULL);
  CHECK(*theirs >= 0);
  close(listening);
}

static int number_of(int fd, int level, int option) {
  int value = 0;
  socklen_t size = sizeof value;
  CHECK(getsockopt(fd, level, option, &value, &size) == 0);
  return value;
}

/* What is asked of a connection: it is one of TCP, with the options it had, and takes new ones. */
static void test_tcp_options(void) {
  static const int families[] = {AF_INET, AF_INET6};
  size_t i;
  for (i = 0; i < 2; ++i) {
    int ours, theirs, on = 1, idle = 77;
    char letter;
    struct timeval wait = {0, 250000}, asked;
    socklen_t size = sizeof asked;
    struct sockaddr_storage name;
    socklen_t name_size = sizeof name;
    connect_tcp(families[i], &ours, &theirs);
    CHECK(setsockopt(theirs, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    CHECK(setsockopt(theirs, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0);
    CHECK(setsockopt(theirs, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle) == 0);
    CHECK(setsockopt(theirs, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) == 0);
    const pid_t child = make_child();
    if (child == 0) {
      close(ours);
      CHECK(number_of(theirs, SOL_SOCKET, SO_DOMAIN) == families[i]);
      CHECK(number_of(theirs, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP);
      CHECK(getpeername(theirs, (struct sockaddr*)&name, &name_size) == 0);
      CHECK(name.ss_family == families[i]);
      CHECK(number_of(theirs, IPPROTO_TCP, TCP_NODELAY) == 1);
      CHECK(number_of(theirs, SOL_SOCKET, SO_KEEPALIVE) == 1);
      CHECK(number_of(theirs, IPPROTO_TCP, TCP_KEEPIDLE) == idle);
      CHECK(getsockopt(theirs, SOL_SOCKET, SO_RCVTIMEO, &asked, &size) == 0);
      CHECK(asked.tv_sec == 0 && asked.tv_usec >= wait.tv_usec && asked.tv_usec < 300000);
      CHECK(recv(theirs, &letter, 1, 0) == -1 && errno == EAGAIN);
      CHECK(setsockopt(theirs, IPPROTO_TCP, TCP_CORK, &on, sizeof on) == 0);
      CHECK(send(theirs, "x", 1, 0) == 1);
      on = 0;
      CHECK(setsockopt(theirs, IPPROTO_TCP, TCP_CORK, &on, sizeof on) == 0);
      _exit(3);
    }
    close(theirs);
    CHECK(recv(ours, &letter, 1, 0) == 1 && letter == 'x');
    CHECK(recv(ours, &letter, 1, 0) == 0);
    expect_exit(child, 3);
    close(ours);
  }
}

static char big[3 << 20];

static void fill_big(void) {
  size_t i;
  for (i = 0; i < sizeof big; ++i) big[i] = (char)(i * 2654435761u >> 13);
}

static void check_big(int fd) {
  static char got[sizeof big];
  CHECK(read_all(fd, got, sizeof got) == (ssize_t)sizeof got && memcmp(got, big, sizeof got) == 0);
}

static void write_big(int fd) {
  size_t done = 0;
  while (done < sizeof big) {
    const ssize_t n = write(fd, big + done, sizeof big - done);
    CHECK(n > 0);
    done += (size_t)n;
  }
}

/* One direction ends, the other goes on. */
static void test_tcp_halves(void) {
  int ours, theirs;
  char letter;
  fill_big();
  connect_tcp(AF_INET, &ours, &theirs);
  const pid_t child = make_child();
  if (child == 0) {
    close(ours);
    check_big(theirs);
    CHECK(read(theirs, &letter, 1) == 0);
    CHECK((events_of(theirs, POLLRDHUP, 0) & (POLLRDHUP | POLLHUP)) == POLLRDHUP);
    write_big(theirs);
    CHECK(shutdown(theirs, SHUT_WR) == 0);
    CHECK((events_of(theirs, 0, 5000) & POLLHUP) != 0);
    _exit(3);
  }
  close(theirs);
  write_big(ours);
  CHECK(shutdown(ours, SHUT_WR) == 0);
  check_big(ours);
  CHECK(read(ours, &letter, 1) == 0);
  expect_exit(child, 3);
  close(ours);
}

static void close_by_reset(int fd) {
  const struct linger at_once = {1, 0};
  CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
  close(fd);
}

/* The other end is reset: what it had sent is read, and then it is no end of file. */
static void test_tcp_reset(void) {
  static char got[100000];
  int ours, theirs, i;
  for (i = 0; i < 2; ++i) {
    connect_tcp(AF_INET, &ours, &theirs);
    CHECK(write(ours, big, sizeof got) == (ssize_t)sizeof got);
    const pid_t child = make_child();
    if (child == 0) {
      close(ours);
      pause_ms(i == 0 ? 0 : 300);
      CHECK(read_all(theirs, got, sizeof got) == (ssize_t)sizeof got);
      CHECK(read(theirs, got, 1) == -1 && errno == ECONNRESET);
      CHECK(read(theirs, got, 1) == 0);
      CHECK(write(theirs, "x", 1) == -1 && errno == EPIPE);
      _exit(3);
    }
    close(theirs);
    pause_ms(150);
    close_by_reset(ours);
    expect_exit(child, 3);
  }
}

/* A child writes to one that was reset: it learns of it, however much it writes and doesn't read.
 */
static void test_tcp_reset_writer(void) {
  int ours, theirs;
  char letter;
  connect_tcp(AF_INET, &ours, &theirs);
  CHECK(write(ours, big, 50000) == 50000);
  const pid_t child = make_child();
  if (child == 0) {
    ssize_t n = 0, all = 0;
    close(ours);
    while ((n = write(theirs, big, sizeof big)) > 0) all += n;
    CHECK(n == -1 && (errno == ECONNRESET || errno == EPIPE));
    CHECK(all > 0);
    _exit(3);
  }
  close(theirs);
  CHECK(read(ours, &letter, 1) == 1);
  close(ours); /* with bytes that nobody has read */
  expect_exit(child, 3);
}

/* A child is reset, by its own wish or since it doesn't read what has come. */
static void test_tcp_reset_child(void) {
  int ours, theirs, i;
  char got[8];
  for (i = 0; i < 3; ++i) {
    connect_tcp(AF_INET, &ours, &theirs);
    const pid_t child = make_child();
    if (child == 0) {
      close(ours);
      if (i > 0) CHECK(events_of(theirs, POLLIN, 5000) == POLLIN);
      CHECK(write(theirs, "last", 4) == 4);
      pause_ms(200);
      if (i == 0) close_by_reset(theirs);
      if (i == 1) close(theirs);
      if (i == 2) raise(SIGKILL);
      _exit(3);
    }
    close(theirs);
    if (i > 0) CHECK(write(ours, "unread", 6) == 6);
    CHECK(read_all(ours, got, 4) == 4 && memcmp(got, "last", 4) == 0);
    CHECK(read(ours, got, 1) == -1 && errno == ECONNRESET);
    if (i < 2)
      expect_exit(child, 3);
    else
      CHECK(waitpid(child, NULL, 0) == child);
    close(ours);
  }
}

/* The parent has it too: what the child does with its own is none of a reset. */
static void test_tcp_shared(void) {
  int ours, theirs;
  char got[8];
  connect_tcp(AF_INET, &ours, &theirs);
  const pid_t child = make_child();
  if (child == 0) {
    close(ours);
    CHECK(write(theirs, "child", 5) == 5);
    close(theirs);
    _exit(3);
  }
  CHECK(read_all(ours, got, 5) == 5 && memcmp(got, "child", 5) == 0);
  expect_exit(child, 3);
  pause_ms(200);
  CHECK(events_of(ours, POLLIN | POLLRDHUP, 0) == 0);
  CHECK(write(ours, "a", 1) == 1 && read(theirs, got, 1) == 1);
  CHECK(write(theirs, "b", 1) == 1 && read(ours, got, 1) == 1);
  close(ours);
  close(theirs);
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {{"pair", test_pair},
               {"shared-pair", test_shared_pair},
               {"shut-pair", test_shut_pair},
               {"readers", test_readers},
               {"shared-readers", test_shared_readers},
               {"queue", test_queue},
               {"unread", test_unread},
               {"workers", test_workers},
               {"end", test_end},
               {"lines", test_lines},
               {"order", test_order},
               {"pipe-size", test_pipe_size},
               {"tcp-options", test_tcp_options},
               {"tcp-halves", test_tcp_halves},
               {"tcp-reset", test_tcp_reset},
               {"tcp-reset-writer", test_tcp_reset_writer},
               {"tcp-reset-child", test_tcp_reset_child},
               {"tcp-shared", test_tcp_shared}};
  size_t i;
  if (argc != 4) return 2;
  host = argv[3];
  signal(SIGPIPE, SIG_IGN);
  for (i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    if (strcmp(argv[2], cases[i].name) != 0) continue;
    cases[i].run();
    puts("ok");
    return 0;
  }
  return 2;
}
