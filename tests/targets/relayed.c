/* What a child of rfork() inherits and its parent has the other end of: relayed FOLDER CASE HOST
 *
 * Each case does what a program does around fork(), and holds for fork(), too (HOST "local"). Says
 * "ok", or what is wrong. */
#include <rfork/rfork.h>

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
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

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {
      {"pair", test_pair}, {"shared-pair", test_shared_pair}, {"shut-pair", test_shut_pair}};
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
