// Pipes whose other end is closed: what a child that has ended left in its output, or what nobody
// reads any more.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"

namespace {

short state_of(int fd) {
  pollfd one{fd, POLLIN | POLLOUT, 0};
  MUST(poll(&one, 1, 0));
  return one.revents;
}

std::string take(int fd, size_t size = 64) {
  std::string bytes(size, '\0');
  bytes.resize(static_cast<size_t>(MUST(read(fd, bytes.data(), size))));
  return bytes;
}

/// The end from which what was written can be read.
int unread(int flags, std::initializer_list<const char*> parts) {
  int ends[2];
  MUST(pipe2(ends, flags));
  for (const char* const part : parts) EXPECT_EQ(write(ends[1], part, strlen(part)), strlen(part));
  MUST(close(ends[1]));
  return ends[0];
}

int output_of_child() {
  int ends[2];
  MUST(pipe(ends));
  const pid_t child = MUST(fork());
  if (child == 0) {
    EXPECT_EQ(write(ends[1], "result\n", 7), 7);
    _exit(3);
  }
  MUST(close(ends[1]));
  MUST(waitpid(child, nullptr, 0));
  return ends[0];
}

void pass(int through, int fd) {
  char byte = 'p';
  iovec vector{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)]{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  EXPECT_EQ(sendmsg(through, &message, 0), 1);
  MUST(close(fd));
}

int receive(int from) {
  char byte;
  iovec vector{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  EXPECT_EQ(recvmsg(from, &message, 0), 1);
  const cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  EXPECT(rights != nullptr);
  int fd;
  std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  return fd;
}

void expect_end(int reader) {
  EXPECT_EQ(state_of(reader), POLLHUP);
  EXPECT_TEXT(take(reader), "");
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  const int child = output_of_child();
  const int left = unread(O_CLOEXEC, {"le", "ft"}), again = MUST(dup(left));
  EXPECT_EQ(MUST(fcntl(left, F_SETPIPE_SZ, 16384)), 16384);
  const int other = MUST(open(("/proc/self/fd/" + std::to_string(left)).c_str(), O_RDONLY));
  const int empty = unread(O_NONBLOCK, {});
  const std::string big(40000, 'b');
  const int large = unread(0, {big.c_str()});
  int pair[2], ends[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  pass(pair[0], unread(0, {"passed"}));
  MUST(pipe2(ends, O_NONBLOCK));
  EXPECT_EQ(write(ends[1], "nobody reads it", 15), 15);
  MUST(close(ends[0]));
  const int unheard = ends[1];

  target::ready();
  target::wait_for_go();

  EXPECT_EQ(state_of(child), POLLIN | POLLHUP);
  EXPECT_TEXT(take(child), "result\n");
  expect_end(child);
  EXPECT_EQ(fcntl(left, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(again, F_GETFD), 0);
  EXPECT_EQ(fcntl(left, F_GETPIPE_SZ), 16384);
  EXPECT_TEXT(take(other, 1), "l");
  EXPECT_TEXT(take(again), "eft");
  expect_end(left);
  expect_end(other);
  EXPECT_EQ(fcntl(empty, F_GETFL), O_RDONLY | O_NONBLOCK);
  expect_end(empty);
  EXPECT_TEXT(take(large, big.size() + 1), big);
  expect_end(large);
  const int passed = receive(pair[1]);
  EXPECT_TEXT(take(passed), "passed");
  expect_end(passed);
  EXPECT_EQ(fcntl(unheard, F_GETFL), O_WRONLY | O_NONBLOCK);
  EXPECT_EQ(state_of(unheard) & POLLERR, POLLERR);
  EXPECT_EQ(write(unheard, "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  // A pipe stays one: who opens it again is heard.
  const int writer =
      MUST(open(("/proc/self/fd/" + std::to_string(empty)).c_str(), O_WRONLY | O_NONBLOCK));
  EXPECT_EQ(write(writer, "new", 3), 3);
  EXPECT_TEXT(take(empty), "new");
  target::finish();
}
