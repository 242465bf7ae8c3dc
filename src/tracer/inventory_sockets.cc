#include "tracer/inventory_sockets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cstring>
#include <set>

#include "image/socket_options.h"
#include "image/socket_words.h"
#include "tracer/proc_text.h"
#include "tracer/sockets.h"

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
bool add_unix_state(pid_t pid, const UnixSocket& told, uint32_t peer, Socket& socket,
                    Description& description) {
  description.shut = told.shut;
  socket.backlog = socket.listening ? static_cast<int32_t>(told.limit) : 0;
  look_at_path(pid, told, socket);
  const bool datagrams = socket.type == SOCK_DGRAM;
  // Who is connected to makes a datagram socket's state that of a connected one too.
  if (datagrams ? !told.peer_told : told.state != TCP_ESTABLISHED) return true;
  socket.connected = true;
  socket.peer_gone = told.peer_told && told.peer == 0;
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

/// False: not all of it can be read or named.
bool add_messages(pid_t pid, const SocketEnd& end, int own, Socket& socket) {
  auto peeked = peek_messages(own, socket);
  if (!peeked) return false;
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

bool check_state(Inventory& inventory, const InventoryInput& input, const SocketEnd& end,
                 const Socket& socket, int own, const UnixSocket* told) {
  if (has_unreadable_filter(own)) {
    return refuse(inventory, end, "with an eBPF filter, which can't be read");
  }
  if (socket.family == AF_PACKET && is_in_fanout(own)) {
    return refuse(inventory, end, "that shares what comes with others (PACKET_FANOUT)");
  }
  if (socket.error && socket.type == SOCK_STREAM && socket.family != AF_UNIX) {
    return refuse(inventory, end, "with an error that the process hasn't asked for yet");
  }
  if (socket.family == AF_NETLINK && memory_queued(own) != 0) {
    return refuse(
        inventory, end, "with messages that the process hasn't read yet",
        fmt::format("try again when it has, or --drop-fd {} goes on without it", end.end.fd));
  }
  const uint32_t waiting = !socket.listening ? 0
                           : told != nullptr ? told->queued
                                             : not_accepted(own);
  if (waiting == 0 || !input.move || input.drop_connections) return true;
  return refuse(
      inventory, end,
      fmt::format("with {} connections that nobody has accepted yet, which would break", waiting),
      "try again when they are accepted, or go on without them: --drop-connections");
}

}  // namespace

std::optional<bool> add_socket(Inventory& inventory, const InventoryInput& input,
                               const OwnChannels& channels, const SocketEnd& end,
                               Description& description) {
  const UniqueFd own = duplicate_descriptor(input.pid, end.end.fd);
  if (!own) return std::nullopt;
  auto socket = describe_socket(own.get(), input.pid);
  if (!socket) return std::nullopt;
  const UnixSocket* const told = channels.unix_socket(end.end);
  if (socket->family == AF_UNIX) {
    if (told == nullptr ||
        !add_unix_state(input.pid, *told, channels.peer_of(end.end), *socket, description)) {
      return std::nullopt;
    }
  } else {
    description.shut = shut_directions(own.get(), *socket);
  }
  if (!check_state(inventory, input, end, *socket, own.get(), told)) return false;
  if (input.earlier != nullptr && !add_messages(channels.pid(), end, own.get(), *socket)) {
    return refuse(inventory, end, "with something on its way in it that can't be carried");
  }
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
    if (description == nullptr || !description->socket || description->other != 0) continue;
    if (description->socket->name.empty() || !seen.insert(description->id).second) continue;
    sockets.push_back({descriptor.fd, *description->socket});
  }
  return sockets;
}

}  // namespace rfork::tracer
