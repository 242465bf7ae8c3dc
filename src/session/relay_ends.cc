#include "session/relay_ends.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/io.h"

namespace rfork::session {

using Type = image::Description::RelayType;

namespace {

constexpr uint64_t kLargestPipe = 1u << 20;  // bytes; what any user may have

void set_non_blocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) throw_errno("fcntl(O_NONBLOCK)");
}

std::pair<UniqueFd, UniqueFd> open_pipe(uint64_t capacity) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("pipe2");
  // What goes beyond the limits of this host's users changes nothing but when a writer waits.
  if (capacity != 0) {
    ::fcntl(ends[0], F_SETPIPE_SZ, static_cast<int>(std::min(capacity, kLargestPipe)));
  }
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::pair<UniqueFd, UniqueFd> open_socket_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw_errno("socketpair");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Master and slave.
std::pair<UniqueFd, UniqueFd> open_terminal() {
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master || ::grantpt(master.get()) != 0 || ::unlockpt(master.get()) != 0) {
    throw_errno("posix_openpt");
  }
  char name[64];
  if (::ptsname_r(master.get(), name, sizeof name) != 0) throw_errno("ptsname");
  UniqueFd slave = open_or_throw(name, O_RDWR | O_NOCTTY);
  return {std::move(master), std::move(slave)};
}

void set_terminal(const image::Description& description, int fd) {
  if (description.terminal_modes.size() == sizeof(termios2)) {
    termios2 modes;
    std::memcpy(&modes, description.terminal_modes.data(), sizeof modes);
    ::ioctl(fd, TCSETS2, &modes);
  }
  if (description.window_size.size() == sizeof(winsize)) {
    winsize size;
    std::memcpy(&size, description.window_size.data(), sizeof size);
    ::ioctl(fd, TIOCSWINSZ, &size);
  }
}

}  // namespace

RelayPair make_relay_pair(const image::Description& description) {
  RelayPair pair;
  pair.ours.id = description.id;
  pair.ours.type = description.relay;
  switch (description.relay) {
    case Type::reader:
      std::tie(pair.of_child, pair.ours.fd) = open_pipe(description.capacity);
      break;
    case Type::writer:
      std::tie(pair.ours.fd, pair.of_child) = open_pipe(description.capacity);
      break;
    case Type::socket:
      std::tie(pair.ours.fd, pair.of_child) = open_socket_pair();
      break;
    case Type::terminal:
      std::tie(pair.ours.fd, pair.of_child) = open_terminal();
      set_terminal(description, pair.of_child.get());
      break;
  }
  set_non_blocking(pair.ours.fd.get());
  struct stat status {};
  if (::fstat(pair.of_child.get(), &status) == 0) pair.ours.inode_of_child = status.st_ino;
  if ((description.flags & O_NONBLOCK) != 0) set_non_blocking(pair.of_child.get());
  return pair;
}

UniqueFd open_again(const image::Description& description, int fd) {
  const int flags = description.flags & (O_ACCMODE | O_NONBLOCK | O_APPEND);
  return open_or_throw(fmt::format("/proc/self/fd/{}", fd), flags | O_NOCTTY);
}

RelayEnd origin_end(const image::Description& description, UniqueFd own) {
  RelayEnd end{description.id, description.relay, std::move(own)};
  struct stat status {};
  const bool file = ::fstat(end.fd.get(), &status) == 0 && S_ISREG(status.st_mode);
  if (description.relay == Type::socket || file) return end;  // a file's offset is everybody's
  // O_NONBLOCK on the description itself would change it for everybody who shares it.
  const int access = description.flags & O_ACCMODE;
  UniqueFd reopened = try_open(fmt::format("/proc/self/fd/{}", end.fd.get()),
                               access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (reopened) end.fd = std::move(reopened);
  return end;
}

void add_at_destination(Relays& relays, RelayEnd end) {
  const bool source = end.type != Type::reader;
  const bool sink = end.type != Type::writer;
  relays.add(end.id, std::move(end.fd), source, sink, end.type == Type::socket);
}

void add_at_origin(Relays& relays, RelayEnd end) {
  const bool source = end.type != Type::writer && end.reads;
  const bool sink = end.type != Type::reader;
  relays.add(end.id, std::move(end.fd), source, sink, end.type == Type::socket,
             end.on_demand ? Relays::Reading::on_demand : Relays::Reading::eagerly);
}

}  // namespace rfork::session
