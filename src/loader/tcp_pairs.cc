// TCP connections of a process with itself: both ends are made here, by a socket that listens for a
// moment.
//
// They get their addresses and ports where these can be had: for that moment both ends may share
// their port (SO_REUSEADDR), with each other, with who listened, and with what is left of older
// connections. Else others, which is said.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/tcp_stream.h"
#include "loader/internet_name.h"
#include "loader/loopback.h"
#include "loader/socket_settings.h"
#include "loader/sockets.h"

namespace rfork::loader {

using image::Socket;
using Time = image::SocketOptionKind::Time;

namespace {

constexpr std::chrono::milliseconds kPatience{5000};

bool bind_to(int fd, const Bytes& name) {
  const auto* const address = reinterpret_cast<const sockaddr*>(name.data());
  return !name.empty() && ::bind(fd, address, static_cast<socklen_t>(name.size())) == 0;
}

void set_switch(int fd, int option, int value) {
  ::setsockopt(fd, SOL_SOCKET, option, &value, sizeof value);
}

/// SO_REUSEADDR as the process had it.
void set_own_reuse(int fd, const Socket& socket) {
  const auto reuse = std::ranges::find(socket.options, "SO_REUSEADDR", &image::SocketOption::name);
  const bool shares =
      reuse != socket.options.end() && !reuse->value.empty() && reuse->value[0] != std::byte{0};
  set_switch(fd, SO_REUSEADDR, shares ? 1 : 0);
}

/// A socket that doesn't wait, with the options that decide where it may be bound.
UniqueFd make_end(const Socket& socket, const std::string& words, Findings& findings) {
  UniqueFd fd(::socket(socket.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, socket.protocol));
  if (!fd) return fd;
  set_options(fd.get(), socket, Time::first, words, findings);
  set_switch(fd.get(), SO_REUSEADDR, 1);
  return fd;
}

/// Listens where the end is to be, or next to it. Never together with another who listens there.
UniqueFd listen_as(const Socket& socket) {
  Findings ignored;  // who is accepted gets the same options, and says what it lacks
  UniqueFd fd = make_end(socket, {}, ignored);
  if (!fd) return fd;
  set_switch(fd.get(), SO_REUSEPORT, 0);
  const auto listens_at = [&](const Bytes& name) {
    return bind_to(fd.get(), name) && ::listen(fd.get(), 4) == 0;
  };
  if (listens_at(internet_name(socket, fd.get(), false, false))) return fd;
  for (const bool loopback : {false, true}) {
    // What is bound already can't be bound again.
    fd = make_end(socket, {}, ignored);
    set_switch(fd.get(), SO_REUSEPORT, 0);
    const Bytes name =
        loopback ? loopback_name(socket.name) : internet_name(socket, fd.get(), false, true);
    if (listens_at(name)) return fd;
  }
  return {};
}

/// The addresses that a client tries, its own first; an empty one is left to the kernel.
std::vector<Bytes> client_names(const Socket& socket, int fd) {
  return {internet_name(socket, fd, false, false), internet_name(socket, fd, false, true), Bytes()};
}

/// Connects a new socket to `name`. `error` gets an errno where it can't.
UniqueFd connect_as(const Socket& socket, const Bytes& name, const std::string& words,
                    Findings& findings, int& error) {
  UniqueFd fd = make_end(socket, words, findings);
  error = errno;
  if (!fd) return fd;
  Findings said_before;
  for (const Bytes& own : client_names(socket, fd.get())) {
    if (!own.empty() && !bind_to(fd.get(), own)) continue;
    error = connect_within(fd.get(), in_family(name, socket.family));
    if (error == 0) return fd;
    fd = make_end(socket, words, said_before);
  }
  return {};
}

/// The closed end of a connection that is left of one.
Socket other_end_of(const Socket& socket) {
  Socket other;
  other.family = socket.family;
  other.type = socket.type;
  other.protocol = socket.protocol;
  other.interface = socket.interface;
  other.name = socket.peer;
  other.peer = socket.name;
  // Of one that both ends have closed the kernel doesn't tell where the other was.
  if (other.name.empty()) other.name = loopback_name(socket.name);
  return other;
}

bool is_here(const Bytes& name) {
  const int family = reinterpret_cast<const sockaddr*>(name.data())->sa_family;
  const UniqueFd probe(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  Socket socket;
  socket.family = family;
  socket.name = name;
  return probe && bind_to(probe.get(), internet_name(socket, probe.get(), false, true));
}

}  // namespace

/// With an end that is the process's own too, or closed.
bool SocketMaker::is_tcp_connection(const Made& one) const {
  const bool kept = one.description->other == 0 && !one.socket.peer_gone;
  return one.socket.connected && one.socket.family != AF_UNIX && !kept;
}

/// Whether it is the end that was accepted.
bool SocketMaker::was_accepted(const Socket& socket) const {
  return listening_ports_.contains(port_of(socket.name));
}

void SocketMaker::make_tcp(Made& one) {
  const auto found = made_.find(one.description->other);
  if (found != made_.end() && &found->second == &one) return make_tcp_to_itself(one);
  Made lost;  // the end that nobody has
  lost.number = -1;
  if (found == made_.end()) lost.socket = other_end_of(one.socket);
  Made& other = found == made_.end() ? lost : found->second;
  const bool accepted = was_accepted(one.socket);
  const int error = connect_tcp(accepted ? other : one, accepted ? one : other);
  if (error != 0) {
    one.bound.fd.reset();
    other.bound.fd.reset();
    findings_.refuse(
        fmt::format("{} can't be connected to {} here: {}", one.words(),
                    found == made_.end() ? "itself" : other.words(), std::strerror(error)),
        "is the interface lo up? " + drop_advice(one.number));
    return;
  }
  one.bound.taken = other.bound.taken = false;
  say_where(one);
  if (found == made_.end()) one.gone = std::move(lost.bound.fd);
}

/// 0, or an errno.
int SocketMaker::connect_tcp(Made& client, Made& server) {
  const UniqueFd listening = listen_as(server.socket);
  if (!listening) return errno;
  const Bytes at = socket_name(listening.get());
  int error = 0;
  client.bound.fd = connect_as(client.socket, at, client.words(), findings_, error);
  if (!client.bound.fd) return error;
  server.bound.fd = accept_from(listening.get(), client.fd());
  if (!server.bound.fd) return ETIMEDOUT;
  set_options(server.fd(), server.socket, Time::first, server.words(), findings_);
  // Until all others have their ports.
  set_switch(server.fd(), SO_REUSEADDR, 1);
  names_.note_connection(port_of(socket_name(client.fd())));
  names_.note_connection(port_of(at));
  return 0;
}

void SocketMaker::make_tcp_to_itself(Made& one) {
  int error = EADDRNOTAVAIL;
  for (const bool any_port : {false, true}) {
    one.bound.fd = make_end(one.socket, one.words(), findings_);
    if (!bind_to(one.fd(), internet_name(one.socket, one.fd(), false, any_port))) {
      error = errno;
      continue;
    }
    error = connect_within(one.fd(), socket_name(one.fd()));
    if (error != 0) continue;
    names_.note_connection(port_of(socket_name(one.fd())));
    return say_where(one);
  }
  one.bound.fd.reset();
  findings_.refuse(fmt::format("{} can't be connected to itself at {} here: {}", one.words(),
                               address_words(one.socket.name), std::strerror(error)),
                   drop_advice(one.number));
}

/// Notes if it isn't where it was.
void SocketMaker::say_where(const Made& one) {
  const Bytes here = socket_name(one.fd()), there = socket_name(one.fd(), ::getpeername);
  const bool peer_same = one.socket.peer.empty() || same_endpoint(there, one.socket.peer);
  if (same_endpoint(here, one.socket.name) && peer_same) return;
  const std::string before =
      one.socket.peer.empty()
          ? address_words(one.socket.name)
          : fmt::format("{} to {}", address_words(one.socket.name), address_words(one.socket.peer));
  elsewhere_.push_back(fmt::format("{} from {} to {}, not {}", one.words(), address_words(here),
                                   address_words(there), before));
}

/// In one note, for there may be many.
void SocketMaker::say_elsewhere() {
  constexpr size_t kMost = 3;
  if (elsewhere_.empty()) return;
  std::string list;
  for (size_t i = 0; i < std::min(elsewhere_.size(), kMost); ++i) {
    list += (i == 0 ? "" : "; ") + elsewhere_[i];
  }
  if (elsewhere_.size() > kMost) list += fmt::format("; and {} more", elsewhere_.size() - kMost);
  findings_.warn(
      fmt::format("TCP connections of the process with itself have other addresses, since theirs "
                  "can't be had here: {}",
                  list));
}

/// One that is to be connected to a socket which listens, and which doesn't yet.
void SocketMaker::make_waiting(Made& one) {
  one.bound.fd = make_end(one.socket, one.words(), findings_);
  if (!one.bound.fd) {
    findings_.refuse(fmt::format("{} can't be made here: {}", one.words(), std::strerror(errno)));
    return;
  }
  for (const Bytes& name : client_names(one.socket, one.fd())) {
    if (bind_to(one.fd(), name)) break;
  }
}

/// To a socket of the process that hasn't accepted it.
void SocketMaker::connect_waiting(Made& one, const Made& listening) {
  Bytes to = socket_name(listening.fd());
  if (is_any_address(to)) {
    // The address that was asked may be another host's here.
    const uint16_t port = port_of(to);
    const Bytes asked = one.socket.peer.empty() ? to : one.socket.peer;
    to = is_here(asked) ? asked : loopback_name(asked);
    set_port(to, port);
  }
  const int error = connect_within(one.fd(), in_family(to, one.socket.family));
  if (error != 0) {
    findings_.refuse(fmt::format("{} can't be connected to {} here: {}", one.words(),
                                 listening.words(), std::strerror(error)),
                     drop_advice(one.number));
    return;
  }
  say_where(one);
}

/// Connections that were accepted have the port of who listens, and leave it to them for the moment
/// in which that is bound again.
void SocketMaker::share_ports_of_kept() {
  for (auto& [id, one] : made_) {
    if (!one.socket.kept || !one.bound.taken || !was_accepted(one.socket)) continue;
    set_switch(one.fd(), SO_REUSEADDR, 1);
    names_.note_connection(port_of(one.socket.name));
  }
}

void SocketMaker::unshare_ports_of_kept() {
  for (auto& [id, one] : made_) {
    if (one.socket.kept && one.bound.taken) set_own_reuse(one.fd(), one.socket);
  }
}

/// When all sockets have their names. What a closed end has sent is there before its end.
void SocketMaker::finish_tcp(Made& one) {
  const int shut = one.description->shut;
  if (one.gone) {
    if (!deliver_stream(one.gone.get(), one.fd(), kPatience)) {
      findings_.refuse(fmt::format("what is in {} doesn't fit into it here", one.words()),
                       "see /proc/sys/net/ipv4/tcp_rmem, or " + drop_advice(one.number));
    }
    one.gone.reset();
  }
  if (shut != 0) {
    (void)::shutdown(one.fd(), shut == 3 ? SHUT_RDWR : shut == 1 ? SHUT_RD : SHUT_WR);
  }
  set_own_reuse(one.fd(), one.socket);
}

}  // namespace rfork::loader
