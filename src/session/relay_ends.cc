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
#include "base/socket_option.h"
#include "image/socket_options.h"
#include "loader/loopback.h"
#include "loader/socket_settings.h"

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

/// A program may ask a TCP connection for what no other socket has, and be told of a reset.
std::pair<UniqueFd, UniqueFd> open_sockets(const image::Description& description,
                                           const std::string& words, loader::Findings& findings) {
  const bool tcp = description.socket && description.socket->family != AF_UNIX;
  if (!tcp) return open_socket_pair();
  auto ends = loader::make_loopback_pair(description.socket->name);
  if (ends) return *std::move(ends);
  findings.warn(
      fmt::format("{} is a unix socket there, since TCP can't be had within that host: "
                  "{}; is its interface lo up?",
                  words, std::strerror(errno)));
  return open_socket_pair();
}

void set_options_of(int fd, const image::Description& description, const std::string& words,
                    loader::Findings& findings) {
  using Time = image::SocketOptionKind::Time;
  if (!description.socket) return;
  image::Socket socket = *description.socket;
  const int family = socket_option<int>(fd, SOL_SOCKET, SO_DOMAIN).value_or(AF_UNIX);
  std::erase_if(socket.options, [&](const image::SocketOption& option) {
    const auto* const kind = image::find_socket_option(option.name);
    return kind != nullptr && kind->level != SOL_SOCKET && family == AF_UNIX;
  });
  for (const Time time : {Time::first, Time::normal, Time::last}) {
    loader::set_options(fd, socket, time, words, findings);
  }
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

RelayPair make_relay_pair(const image::Description& description, const std::string& words) {
  RelayPair pair;
  loader::Findings findings;
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
      std::tie(pair.ours.fd, pair.of_child) = open_sockets(description, words, findings);
      set_options_of(pair.of_child.get(), description, words, findings);
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
  // It goes on without an option that this host lacks: what is sent and received is the same.
  pair.differences = std::move(findings.warnings);
  for (const Reason& reason : findings.reasons) pair.differences.push_back(reason.what);
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
