#include "loader/sockets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "loader/held_connections.h"
#include "loader/internet_name.h"
#include "loader/kernel_objects.h"
#include "loader/remade_connections.h"
#include "loader/socket_settings.h"

namespace rfork::loader {

using image::Description;
using image::Socket;
using Time = image::SocketOptionKind::Time;

namespace {

/// Of images that knew only pairs of stream sockets too.
Socket socket_of(const Description& description) {
  if (description.socket) return *description.socket;
  Socket socket;
  socket.connected = true;
  for (const Bytes& bytes : description.queued) {
    image::SocketMessage message;
    message.data = bytes;
    socket.messages.push_back(message);
  }
  return socket;
}

}  // namespace

std::string SocketMaker::Made::words() const {
  return number < 0 ? "a socket on its way" : fmt::format("descriptor {}", number);
}

SocketMaker::SocketMaker(const image::Snapshot& snapshot, BindOptions options, Findings& findings)
    : snapshot_(snapshot),
      options_(options),
      findings_(findings),
      names_(snapshot.processes[0].cwd) {}

UniqueFd SocketMaker::open(const Description& description) {
  if (!all_made_) make_all();
  all_made_ = true;
  const auto found = made_.find(description.id);
  if (found == made_.end() || !found->second.bound.fd) return {};
  // One stays here: others may be connected to it when its turn comes.
  return UniqueFd(::fcntl(found->second.fd(), F_DUPFD_CLOEXEC, 0));
}

/// With all that is on its way in it.
void SocketMaker::add(const Description& description, int number) {
  if (description.kind != Description::Kind::socket || made_.contains(description.id)) return;
  Made& made = made_[description.id];
  made.description = &description;
  made.socket = socket_of(description);
  const auto numbered = numbers_.find(description.id);
  made.number = numbered == numbers_.end() ? number : numbered->second;
  if (made.socket.listening && made.socket.family != AF_UNIX) {
    listening_ports_.insert(port_of(made.socket.name));
  }
  for (const image::SocketMessage& message : made.socket.messages) {
    for (const uint32_t id : message.descriptions) {
      add(*image::find_id(snapshot_.descriptions, id), -1);
    }
  }
}

void SocketMaker::make_all() {
  // Those with a number first: others may be on their way too.
  for (const bool first : {true, false}) {
    for (const image::Descriptor& descriptor : snapshot_.processes[0].descriptors) {
      const Description* const one = image::find_id(snapshot_.descriptions, descriptor.description);
      if (one == nullptr || one->kind != Description::Kind::socket) continue;
      if (first) {
        numbers_.emplace(one->id, descriptor.fd);
      } else {
        add(*one, descriptor.fd);
      }
    }
  }
  ask_for_held();
  for (auto& [id, one] : made_) take_original(one.bound, one.socket, one.number, options_);
  share_ports_of_kept();
  take_remade();
  // Connections first: they borrow the names that others have for good.
  for (auto& [id, one] : made_) {
    if (is_pair(one) && !one.bound.fd) make_pair(one);
  }
  for (auto& [id, one] : made_) {
    if (!one.bound.fd && !is_pair(one) && !one.socket.tcp) make_alone(one);
  }
}

/// Why one couldn't be made is in the findings already.
void SocketMaker::take_remade() {
  for (auto& [id, one] : made_) {
    if (!one.socket.tcp || options_.remade == nullptr) continue;
    one.bound.fd = options_.remade->take(one.socket.cookie);
    // In repair mode its port can be shared with who listens there.
    names_.note_connection(port_of(one.socket.name));
  }
}

void SocketMaker::ask_for_held() {
  if (options_.held == nullptr) return;
  std::vector<uint64_t> cookies;
  for (const auto& [id, one] : made_) {
    if (one.socket.kept) cookies.push_back(one.socket.cookie);
  }
  if (!cookies.empty()) options_.held->ask_for(std::move(cookies));
}

void SocketMaker::complete(const std::function<int(uint32_t)>& descriptor) {
  const auto each = [&](const auto& visit) {
    for (auto& [id, one] : made_) {
      if (one.bound.fd && !one.bound.taken) visit(one);
    }
  };
  each([&](Made& one) { fill(one, descriptor); });
  each([&](Made& one) { connect(one); });
  each([&](Made& one) { connect_all_waiting(one); });
  say_elsewhere();
  each([&](Made& one) { finish(one); });
  unshare_ports_of_kept();
  names_.take_back();  // now: a caller in the foreground ends without destructors
}

/// Two that are connected to each other, or one whose other end is gone. A datagram socket may be
/// connected to itself, by its name.
bool SocketMaker::is_pair(const Made& one) const {
  if (!one.socket.connected || waits(one)) return false;
  if (one.socket.family != AF_UNIX) return is_tcp_connection(one);
  const auto other = made_.find(one.description->other);
  if (other == made_.end()) return one.socket.type != SOCK_DGRAM || one.socket.peer.empty();
  if (one.socket.type != SOCK_DGRAM) return true;
  return other->second.description != one.description &&
         other->second.description->other == one.description->id;
}

/// Connected to one that hasn't accepted it.
bool SocketMaker::waits(const Made& one) const {
  const auto other = made_.find(one.description->other);
  return one.socket.connected && other != made_.end() && other->second.socket.listening;
}

/// In the order in which they are to be accepted.
void SocketMaker::connect_all_waiting(const Made& listening) {
  for (const uint32_t id : listening.socket.pending) {
    const auto found = made_.find(id);
    if (found == made_.end() || !found->second.bound.fd || found->second.bound.taken) continue;
    Made& one = found->second;
    if (is_tcp_connection(one)) {
      connect_waiting(one, listening);
      continue;
    }
    set_status_flags(one.fd(), O_NONBLOCK);
    const int error = connect_to(one.fd(), listening.bound, listening.socket.name);
    if (error == 0) continue;
    findings_.refuse(fmt::format("{} can't be connected to {}: {}", one.words(), listening.words(),
                                 std::strerror(error)));
  }
}

void SocketMaker::make_pair(Made& one) {
  if (is_tcp_connection(one)) return make_tcp(one);
  const auto found = made_.find(one.description->other);
  if (found == made_.end() || found->second.description == one.description) {
    return make_dead_pair(one);
  }
  Made& other = found->second;
  const bool streams = one.socket.type != SOCK_DGRAM;
  // Who was accepted has the name of who listened, and the other one knows that.
  if (streams && !one.socket.name.empty() && one.socket.name == other.socket.peer &&
      connect_pair(other, one)) {
    return;
  }
  if (streams && !other.socket.name.empty() && other.socket.name == one.socket.peer &&
      connect_pair(one, other)) {
    return;
  }
  int ends[2];
  if (::socketpair(AF_UNIX, one.socket.type | SOCK_CLOEXEC, 0, ends) != 0) {
    findings_.refuse(fmt::format("sockets can't be made here: {}", std::strerror(errno)));
    return;
  }
  for (auto [made, fd] : {std::pair{&one, ends[0]}, {&other, ends[1]}}) {
    made->bound.fd.reset(fd);
    set_options(fd, made->socket, Time::first, made->words(), findings_);
    name_end(made->bound, made->socket, made->number, options_, names_, findings_);
  }
}

/// By a listening socket that has the name for a moment. False: the name can't be had, and nothing
/// was made.
bool SocketMaker::connect_pair(Made& client, Made& server) {
  const UniqueFd listening(::socket(AF_UNIX, server.socket.type | SOCK_CLOEXEC, 0));
  BoundSocket lent;
  if (names_.lend(listening.get(), server.socket.name, lent.reach) != 0 ||
      ::listen(listening.get(), 1) != 0) {
    return false;
  }
  client.bound.fd.reset(::socket(AF_UNIX, client.socket.type | SOCK_CLOEXEC, 0));
  set_options(client.fd(), client.socket, Time::first, client.words(), findings_);
  if (!name_end(client.bound, client.socket, client.number, options_, names_, findings_)) {
    return true;
  }
  const int error = connect_to(client.fd(), lent, server.socket.name);
  server.bound.fd.reset(error == 0 ? ::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC)
                                   : -1);
  if (!server.bound.fd) {
    findings_.refuse(fmt::format("{} can't be connected to {}: {}", client.words(), server.words(),
                                 std::strerror(error != 0 ? error : errno)));
    return true;
  }
  set_options(server.fd(), server.socket, Time::first, server.words(), findings_);
  return true;
}

void SocketMaker::make_dead_pair(Made& one) {
  int ends[2];
  if (::socketpair(AF_UNIX, one.socket.type | SOCK_CLOEXEC, 0, ends) != 0) {
    findings_.refuse(fmt::format("sockets can't be made here: {}", std::strerror(errno)));
    return;
  }
  one.bound.fd.reset(ends[0]);
  one.gone.reset(ends[1]);
  set_options(one.fd(), one.socket, Time::first, one.words(), findings_);
  // Who was accepted has the name of who listened, which may be there still.
  std::string ignored;
  if (!one.socket.name.empty() && names_.lend(one.fd(), one.socket.name, ignored) != 0) {
    findings_.warn(
        fmt::format("{} has not its name {} here", one.words(), address_words(one.socket.name)));
  }
}

void SocketMaker::make_alone(Made& one) {
  if (waits(one) && is_tcp_connection(one)) return make_waiting(one);
  one.bound = make_socket(one.socket, one.number, options_, names_, findings_);
}

/// To a name that nobody has any more: what is sent there is refused, as when who had it has ended.
int SocketMaker::connect_to_dead(Made& one) {
  BoundSocket lent;
  lent.fd.reset(::socket(AF_UNIX, one.socket.type | SOCK_CLOEXEC, 0));
  const int error = names_.lend(lent.fd.get(), one.socket.peer, lent.reach);
  return error != 0 ? error : connect_to(one.fd(), lent, one.socket.peer);
}

void SocketMaker::connect(Made& one) {
  const Socket& socket = one.socket;
  if (socket.listening || socket.tcp || is_pair(one) || waits(one)) return;
  if (socket.family != AF_UNIX) {
    if (socket.peer.empty() || socket.family == AF_PACKET) return;
    if (const int error = connect_to_name(one.fd(), socket.peer); error != 0) {
      findings_.refuse(fmt::format("{} can't be connected to {} here: {}", one.words(),
                                   address_words(socket.peer), std::strerror(error)),
                       drop_advice(one.number));
    }
    return;
  }
  if (!socket.connected) return;
  if (const auto own = made_.find(one.description->other); own != made_.end()) {
    const int error = connect_to(one.fd(), own->second.bound, own->second.socket.name);
    if (error == 0) return;
    findings_.refuse(fmt::format("{} can't be connected to {}: {}", one.words(),
                                 own->second.words(), std::strerror(error)));
    return;
  }
  const std::string path = socket_path(socket.peer);
  int error = socket.peer_gone ? ECONNREFUSED
              : path.empty()   ? connect_to_name(one.fd(), socket.peer)
                               : connect_to_path(one.fd(), names_.place(socket.peer));
  if (error == 0) return;
  if (!socket.peer_gone) {
    findings_.warn(fmt::format("nobody is at {} here, to which {} is connected: {}",
                               address_words(socket.peer), one.words(), std::strerror(error)));
  }
  error = connect_to_dead(one);
  if (error != 0) {
    findings_.refuse(fmt::format("{} can't be connected to {} here: {}", one.words(),
                                 address_words(socket.peer), std::strerror(error)),
                     drop_advice(one.number));
  }
}

void SocketMaker::finish(Made& one) {
  const Socket& socket = one.socket;
  set_status_flags(one.fd(), one.description->flags);
  const int shut = one.description->shut;
  // What was on its way can still be read. An end that is gone has left something unread if its
  // peer knows of an error.
  if (is_tcp_connection(one)) {
    finish_tcp(one);
  } else if (one.gone) {
    if (socket.error && socket.type != SOCK_DGRAM) (void)!::send(one.fd(), "", 1, MSG_DONTWAIT);
    one.gone.reset();
  } else if (child_fills_either(one)) {
    // The child shuts it down, when it is filled.
  } else if (shut != 0 &&
             (socket.family != AF_UNIX || socket.type == SOCK_DGRAM || !socket.connected)) {
    // Of a closed socket it says ENOTCONN, and does it.
    (void)::shutdown(one.fd(), shut == 3 ? SHUT_RDWR : shut == 1 ? SHUT_RD : SHUT_WR);
  } else if ((shut & 2) != 0) {
    (void)::shutdown(one.fd(), SHUT_WR);
  }
  set_options(one.fd(), socket, Time::normal, one.words(), findings_);
  join_groups(one.fd(), socket, one.words(), findings_);
  if (socket.family != AF_PACKET) set_filter(one.fd(), socket, one.words(), findings_);
  set_options(one.fd(), socket, Time::last, one.words(), findings_);
  if (socket.family == AF_PACKET) {
    findings_.warn(
        fmt::format("{} is a packet socket: it receives what comes to this host, but has "
                    "not asked its interface again for more (promiscuous mode)",
                    one.words()));
  }
  if (socket.left != 0) {
    findings_.warn(
        fmt::format("{} had packets in it that nobody had read, which are lost", one.words()));
  }
  if (socket.error && socket.type == SOCK_DGRAM) {
    findings_.warn(
        fmt::format("{} had an error that nobody had asked for, which is forgotten", one.words()));
  }
}

}  // namespace rfork::loader
