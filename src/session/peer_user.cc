#include "session/peer_user.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <sstream>
#include <string>

#include "base/io.h"

namespace rfork::session {

namespace {

/// An address as /proc/net/tcp and tcp6 print it: 32-bit words as they lie in memory, then the
/// port.
std::string proc_text(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    sockaddr_in four{};
    std::memcpy(&four, &address, sizeof four);
    return fmt::format("{:08X}:{:04X}", four.sin_addr.s_addr, ntohs(four.sin_port));
  }
  sockaddr_in6 six{};
  std::memcpy(&six, &address, sizeof six);
  std::string text;
  for (const uint32_t word : six.sin6_addr.s6_addr32) text += fmt::format("{:08X}", word);
  return fmt::format("{}:{:04X}", text, ntohs(six.sin6_port));
}

/// The owner of the socket with these ends (proc(5): sl local remote st queues timer retransmits
/// uid ...).
std::optional<uid_t> owner(const char* table, const std::string& local, const std::string& remote) {
  std::istringstream lines(read_file(table));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string slot, here, there, state, queues, timer, retransmits;
    uid_t uid = 0;
    if (fields >> slot >> here >> there >> state >> queues >> timer >> retransmits >> uid &&
        here == local && there == remote) {
      return uid;
    }
  }
  return std::nullopt;
}

}  // namespace

bool is_own_peer(int socket) {
  sockaddr_storage peer{};
  sockaddr_storage own{};
  socklen_t peer_size = sizeof peer;
  socklen_t own_size = sizeof own;
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0 ||
      getsockname(socket, reinterpret_cast<sockaddr*>(&own), &own_size) != 0) {
    return false;
  }
  const char* const table = peer.ss_family == AF_INET ? "/proc/net/tcp" : "/proc/net/tcp6";
  const std::optional<uid_t> uid = owner(table, proc_text(peer), proc_text(own));
  return uid && (*uid == geteuid() || *uid == 0);
}

}  // namespace rfork::session
