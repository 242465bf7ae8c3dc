#include "session/relay_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/io.h"
#include "base/socket_option.h"

namespace rfork::session {

namespace {

constexpr size_t kPipePage = 4096;
constexpr size_t kTerminalRoom = 256;
constexpr int kMptcp = 262;  // IPPROTO_MPTCP

mode_t type_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_mode & S_IFMT : 0;
}

}  // namespace

bool is_pipe(int fd) {
  return type_of(fd) == S_IFIFO;
}

namespace {

UniqueFd open_pipe_again(int fd, int access) {
  if (!is_pipe(fd)) return {};
  return try_open(fmt::format("/proc/self/fd/{}", fd), access | O_NONBLOCK);
}

}  // namespace

size_t at_once(int fd, bool socket) {
  struct stat status {};
  const int flags = ::fcntl(fd, F_GETFL);
  if (socket || flags < 0 || (flags & O_NONBLOCK) != 0 || ::fstat(fd, &status) != 0) return 0;
  if (S_ISFIFO(status.st_mode)) return kPipePage;
  return S_ISCHR(status.st_mode) ? kTerminalRoom : 0;
}

ssize_t write_now(int fd, std::span<const std::byte> bytes, size_t at_once) {
  if (at_once == 0) return ::write(fd, bytes.data(), bytes.size());
  iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
  const ssize_t n = ::pwritev2(fd, &vector, 1, -1, RWF_NOWAIT);  // of pipes: since Linux 6.4
  if (n >= 0 || (errno != EOPNOTSUPP && errno != EINVAL)) return n;
  pollfd ready{fd, POLLOUT, 0};
  if (::poll(&ready, 1, 0) == 0) {
    errno = EAGAIN;
    return -1;
  }
  return ::write(fd, bytes.data(), std::min(bytes.size(), at_once));
}

ssize_t read_now(int fd, std::span<std::byte> bytes, size_t at_once) {
  if (at_once == 0) return ::read(fd, bytes.data(), bytes.size());
  iovec vector{bytes.data(), bytes.size()};
  const ssize_t n = ::preadv2(fd, &vector, 1, -1, RWF_NOWAIT);
  if (n >= 0 || (errno != EOPNOTSUPP && errno != EINVAL)) return n;
  pollfd ready{fd, POLLIN, 0};
  if (::poll(&ready, 1, 0) == 0) {
    errno = EAGAIN;
    return -1;
  }
  return ::read(fd, bytes.data(), bytes.size());
}

bool at_end_of_pipe(int fd) {
  pollfd state{fd, POLLIN, 0};
  return is_pipe(fd) && ::poll(&state, 1, 0) == 1 &&
         (state.revents & (POLLIN | POLLHUP)) == POLLHUP;
}

bool has_unread(int fd) {
  int bytes = 0;
  const mode_t type = type_of(fd);
  if (type != S_IFSOCK && type != S_IFIFO) return false;
  return ::ioctl(fd, type == S_IFSOCK ? SIOCOUTQ : FIONREAD, &bytes) == 0 && bytes > 0;
}

bool is_tcp(int fd) {
  const int protocol = socket_option<int>(fd, SOL_SOCKET, SO_PROTOCOL).value_or(0);
  return protocol == IPPROTO_TCP || protocol == kMptcp;
}

bool has_left(int fd) {
  const int least = 1;  // byte
  int waiting = 0;
  if (::ioctl(fd, SIOCOUTQNSD, &waiting) != 0 || waiting == 0) return true;
  return ::setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &least, sizeof least) != 0;
}

void reset_at_close(int fd) {
  const linger at_once{1, 0};
  (void)::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void take_all_of_pipe(int fd, ByteQueue& queue) {
  constexpr size_t kStep = 64u << 10;
  const UniqueFd reader = open_pipe_again(fd, O_RDONLY);
  for (;;) {
    const ssize_t n = reader ? ::read(reader.get(), queue.room(kStep).data(), kStep) : 0;
    if (n <= 0) return;
    queue.push(static_cast<size_t>(n));
  }
}

UniqueFd writing_end(int fd) {
  return open_pipe_again(fd, O_WRONLY);
}

}  // namespace rfork::session
