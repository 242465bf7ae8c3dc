#include "tracer/inventory_sockets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <set>

#include "image/socket_options.h"
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

/// The path that a unix socket is bound to, as it was named; empty: none.
std::string path_of(const Bytes& name) {
  constexpr size_t kStart = offsetof(sockaddr_un, sun_path);
  if (name.size() <= kStart || name[kStart] == std::byte{0}) return {};
  const char* const start = reinterpret_cast<const char*>(name.data()) + kStart;
  return {start, ::strnlen(start, name.size() - kStart)};
}

/// Whether the path leads to the socket's file still; its owner and permissions are noted.
void look_at_path(pid_t pid, const UnixSocket& told, Socket& socket) {
  const std::string path = path_of(socket.name);
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
void mark_own(pid_t pid, std::vector<image::SocketMessage>& messages) {
  for (image::SocketMessage& message : messages) {
    ucred sender{};
    if (message.credentials.size() != sizeof sender) continue;
    std::memcpy(&sender, message.credentials.data(), sizeof sender);
    if (sender.pid != pid) continue;
    sender.pid = image::kOwnPid;
    std::memcpy(message.credentials.data(), &sender, sizeof sender);
  }
}

bool check_state(Inventory& inventory, const InventoryInput& input, const SocketEnd& end,
                 const Socket& socket, int own, const UnixSocket* told) {
  if (const auto on_their_way = value_of(end.info, "scm_fds"); on_their_way.value_or("0") != "0") {
    return refuse(inventory, end, "with descriptors on their way in it, which can't be carried");
  }
  if (has_unreadable_filter(own)) {
    return refuse(inventory, end, "with an eBPF filter, which can't be read");
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
  if (input.earlier != nullptr) {
    auto messages = peek_messages(own.get(), *socket);
    if (!messages) {
      return refuse(inventory, end, "with descriptors on their way in it, which can't be carried");
    }
    mark_own(input.pid, *messages);
    socket->messages = *std::move(messages);
  }
  description.kind = Description::Kind::socket;
  description.socket = *std::move(socket);
  return true;
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
