#include "tracer/inventory_sockets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/io.h"
#include "image/socket_options.h"
#include "image/socket_words.h"
#include "tracer/proc_text.h"
#include "tracer/socket_obstacles.h"
#include "tracer/sockets.h"
#include "tracer/tcp_connections.h"

namespace rfork::tracer {

using image::Description;
using image::Socket;

namespace {

bool refuse(Inventory& inventory, const SocketEnd& socket, const std::string& why,
            const std::string& advice = {}) {
  const std::string drop = fmt::format("--drop-fd {} goes on without it", socket.end.fd);
  inventory.obstacles.push_back(
      {fmt::format("descriptor {} is {} {}", socket.end.fd, socket.words, why),
       advice.empty() ? drop : advice});
  return false;
}

/// Whether the path leads to the socket's file still; its owner and permissions are noted.
void look_at_path(pid_t pid, const UnixSocket& told, Socket& socket) {
  const std::string path = image::socket_path(socket.name);
  if (path.empty() || !told.file) return;
  const std::string base = path.starts_with('/') ? "root" : "cwd/";
  struct stat status {};
  if (::lstat(fmt::format("/proc/{}/{}{}", pid, base, path).c_str(), &status) != 0) return;
  if (!S_ISSOCK(status.st_mode) || status.st_ino != *told.file) return;
  socket.has_path = true;
  socket.mode = status.st_mode & 07777;
  socket.uid = status.st_uid;
  socket.gid = status.st_gid;
}

/// False: its other end is elsewhere.
bool add_unix_state(pid_t pid, const UnixSocket& told, const OwnChannels& channels,
                    const ChannelEnd& end, Socket& socket, Description& description) {
  const uint32_t peer = channels.peer_of(end);
  description.shut = told.shut;
  socket.backlog = socket.listening ? static_cast<int32_t>(told.limit) : 0;
  look_at_path(pid, told, socket);
  const bool datagrams = socket.type == SOCK_DGRAM;
  // Who is connected to makes a datagram socket's state that of a connected one too.
  if (datagrams ? !told.peer_told : told.state != TCP_ESTABLISHED) return true;
  socket.connected = true;
  // Who was not accepted yet has no number either, but nothing is shut down.
  constexpr uint8_t kBothWays = 3;
  socket.peer_gone = told.peer_told && told.peer == 0 && (datagrams || told.shut == kBothWays);
  description.other = peer;
  // Datagrams to a name need nobody there.
  return peer != 0 || socket.peer_gone || (datagrams && !socket.peer.empty());
}

/// The process's own messages are told from those of others by a pid that nobody has: as whom it
/// goes on isn't known here.
void mark_own(pid_t pid, image::SocketMessage& message) {
  ucred sender{};
  if (message.credentials.size() != sizeof sender) return;
  std::memcpy(&sender, message.credentials.data(), sizeof sender);
  if (sender.pid != pid) return;
  sender.pid = image::kOwnPid;
  std::memcpy(message.credentials.data(), &sender, sizeof sender);
}

/// How many descriptors are on their way in it, as the kernel counts them.
size_t count_passed(const ChannelEnd& end) {
  const auto info =
      try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/fdinfo/{}", end.pid, end.fd)).value_or("");
  return std::stoul(value_of(info, "scm_fds").value_or("0"));
}

/// False: not all of it can be read or named.
bool add_messages(pid_t pid, const SocketEnd& end, int own, Socket& socket) {
  auto peeked = peek_messages(own, socket);
  if (!peeked) return false;
  size_t passed_here = 0;
  for (const PeekedMessage& one : *peeked) passed_here += one.passed.size();
  // An empty datagram that was peeked at before isn't shown again, whatever comes with it.
  if (socket.type != SOCK_STREAM && passed_here < count_passed(end.end)) return false;
  for (PeekedMessage& one : *peeked) {
    mark_own(pid, one.message);
    for (const UniqueFd& passed : one.passed) {
      one.message.descriptions.push_back(end.description_of(passed.get()));
      if (one.message.descriptions.back() == 0) return false;
    }
    socket.messages.push_back(std::move(one.message));
  }
  return true;
}

/// A TCP connection of the process with itself.
void add_tcp_state(const TcpLink& link, Socket& socket, Description& description) {
  socket.connected = true;
  socket.peer_gone = link.way == TcpLink::Way::gone;
  description.other = link.other;
}

/// Bytes that wait, in a socket that nobody has accepted, for who will.
uint64_t unreadable_bytes(int own) {
  int size = 0;
  return ::ioctl(own, SIOCOUTQ, &size) == 0 && size > 0 ? static_cast<uint64_t>(size) : 0;
}

/// Whether a byte that was sent with MSG_OOB is unread, or is what the next read would stop at: it
/// has no place among what a peek gives. poll(2) tells of it in whatever way it is to be read.
bool has_urgent_byte(int own, const Socket& socket) {
  if (socket.family != AF_UNIX || socket.type != SOCK_STREAM || !socket.connected) return false;
  pollfd state{own, POLLPRI, 0};
  if (::poll(&state, 1, 0) == 1 && (state.revents & POLLPRI) != 0) return true;
  int at_mark = 0;
  return ::ioctl(own, SIOCATMARK, &at_mark) == 0 && at_mark != 0;
}

/// What can't be read of a connection of the process with itself, in words; empty: nothing.
std::string connection_obstacle(const OwnChannels& channels, const SocketEnd& end,
                                const Socket& socket, int own) {
  if (channels.tcp_link(end.end) != nullptr) return channels.tcp().obstacle(end.end.status.st_ino);
  if (has_urgent_byte(own, socket)) return kUrgentData;
  if (socket.family != AF_UNIX || !channels.waits(end.end)) return {};
  if (unreadable_bytes(own) == 0) return {};
  return "with something written to a connection that nobody has accepted yet, where it can't be "
         "read";
}

/// Of a listening socket: how many connections of others nobody has accepted.
uint32_t others_waiting(const OwnChannels& channels, const SocketEnd& end, const Socket& socket,
                        int own) {
  if (!socket.listening) return 0;
  const UnixSocket* const told = channels.unix_socket(end.end);
  const uint32_t all = told != nullptr ? told->queued : not_accepted(own);
  return all - std::min(all, static_cast<uint32_t>(socket.pending.size()));
}

bool check_state(Inventory& inventory, const InventoryInput& input, const OwnChannels& channels,
                 const SocketEnd& end, const Socket& socket, int own) {
  const bool stopped = input.earlier != nullptr;
  if (const auto found = socket_obstacle(own, socket, stopped); !found.words.empty()) {
    const std::string drop = fmt::format("--drop-fd {} goes on without it", end.end.fd);
    return refuse(inventory, end, found.words,
                  found.when.empty() ? drop : fmt::format("try again {}, or {}", found.when, drop));
  }
  if (const std::string why = connection_obstacle(channels, end, socket, own); !why.empty()) {
    return refuse(inventory, end, why,
                  fmt::format("try again later, or --drop-fd {} goes on without it", end.end.fd));
  }
  const uint32_t waiting = others_waiting(channels, end, socket, own);
  if (waiting == 0 || !input.move || input.drop_connections) return true;
  return refuse(
      inventory, end,
      fmt::format("with {} connections that nobody has accepted yet, which would break", waiting),
      "try again when they are accepted, or go on without them: --drop-connections");
}

void note_losses(Inventory& inventory, const SocketEnd& end, const Socket& socket) {
  const auto note = [&](const std::string& what) {
    inventory.notes.push_back(fmt::format("descriptor {} is {} {}", end.end.fd, end.words, what));
  };
  if (socket.left != 0) note("with packets in it that nobody has read, which are lost");
  if (socket.family == AF_PACKET) note("that won't ask its interface for more (promiscuous mode)");
  const std::string path = image::socket_path(socket.name);
  const bool reached = socket.listening || (socket.type == SOCK_DGRAM && !socket.connected);
  if (socket.family == AF_UNIX && reached && !path.empty() && !path.starts_with('/') &&
      !socket.has_path) {
    note("whose path doesn't lead to it from the working directory: nobody will reach it by that");
  }
}

/// A TCP connection to elsewhere, which the child takes as it is: nothing of it needs to be read.
bool keep_connection(Inventory& inventory, const InventoryInput& input, UniqueFd own,
                     Description& description) {
  auto socket = describe_socket(own.get(), input.pid, true);
  if (!socket) return false;
  socket->connected = true;
  socket->error = false;
  socket->kept = true;
  if (input.into_file || input.remade) inventory.kept.push_back({socket->cookie, std::move(own)});
  description.kind = Description::Kind::socket;
  description.socket = *std::move(socket);
  return true;
}

/// What is queued in it; the process is stopped. False, with an obstacle noted.
bool add_queue(Inventory& inventory, const OwnChannels& channels, const SocketEnd& end, int own,
               Socket& socket) {
  if (channels.tcp_link(end.end) == nullptr) {
    return add_messages(channels.pid(), end, own, socket) ||
           refuse(inventory, end, "with something on its way in it that can't be carried");
  }
  const std::string why = channels.tcp().read(end.end.status.st_ino, socket.messages);
  return why.empty() || refuse(inventory, end, why);
}

}  // namespace

std::optional<bool> add_socket(Inventory& inventory, const InventoryInput& input,
                               const OwnChannels& channels, const SocketEnd& end,
                               Description& description) {
  UniqueFd own = duplicate_descriptor(input.pid, end.end.fd);
  if (!own) return std::nullopt;
  const TcpLink* const link = channels.tcp_link(end.end);
  if (link == nullptr && input.keep_tcp && input.move && is_tcp_connection(own.get())) {
    return keep_connection(inventory, input, std::move(own), description);
  }
  auto socket = describe_socket(own.get(), input.pid, link != nullptr);
  if (!socket) return std::nullopt;
  if (socket->family == AF_UNIX) {
    const UnixSocket* const told = channels.unix_socket(end.end);
    if (told == nullptr ||
        !add_unix_state(input.pid, *told, channels, end.end, *socket, description)) {
      return std::nullopt;
    }
  } else {
    if (link != nullptr) add_tcp_state(*link, *socket, description);
    description.shut = shut_directions(own.get(), *socket);
  }
  if (socket->listening) socket->pending = channels.waiting_at(end.end);
  if (!check_state(inventory, input, channels, end, *socket, own.get())) return false;
  note_losses(inventory, end, *socket);
  // An empty datagram is shown once to who peeks: --check leaves it to the real run.
  const bool read = input.earlier != nullptr && (!input.glance || socket->type == SOCK_STREAM);
  if (read && !add_queue(inventory, channels, end, own.get(), *socket)) return false;
  if (link != nullptr && input.into_file) inventory.connections.push_back(std::move(own));
  description.kind = Description::Kind::socket;
  description.socket = *std::move(socket);
  return true;
}

std::optional<std::vector<UniqueFd>> passed_in(pid_t pid, int fd, const std::string& fdinfo) {
  std::vector<UniqueFd> passed;
  if (value_of(fdinfo, "scm_fds").value_or("0") == "0") return passed;
  const UniqueFd own = duplicate_descriptor(pid, fd);
  auto socket = own ? describe_socket(own.get(), pid) : std::nullopt;
  if (!socket) return std::nullopt;
  socket->connected = true;
  auto peeked = peek_messages(own.get(), *socket);
  if (!peeked) return std::nullopt;
  for (PeekedMessage& one : *peeked) {
    for (UniqueFd& descriptor : one.passed) passed.push_back(std::move(descriptor));
  }
  return passed;
}

std::vector<OpenSocket> named_sockets(const Inventory& inventory) {
  std::vector<OpenSocket> sockets;
  std::set<uint32_t> seen;
  for (const image::Descriptor& descriptor : inventory.descriptors) {
    const Description* const description =
        image::find_id(inventory.descriptions, descriptor.description);
    if (description == nullptr || description->kind != Description::Kind::socket) continue;
    if (!description->socket || description->other != 0) continue;
    // Of a closed connection the name may be another.
    const bool internet = description->socket->family != AF_UNIX;
    if (internet && description->socket->connected && description->socket->peer_gone) continue;
    if (description->socket->name.empty() || !seen.insert(description->id).second) continue;
    sockets.push_back({descriptor.fd, *description->socket});
  }
  return sockets;
}

}  // namespace rfork::tracer
