#include "session/peer_user.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <sstream>
#include <string>

#include "base/io.h"

namespace rfork::session {

namespace {

/// Both ends of the connection, as the peer's socket has them.
struct Ends {
  sockaddr_storage local{};
  sockaddr_storage remote{};
};

std::optional<Ends> ends_of_peer(int socket) {
  Ends ends;
  socklen_t local_size = sizeof ends.local;
  socklen_t remote_size = sizeof ends.remote;
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&ends.local), &local_size) != 0 ||
      getsockname(socket, reinterpret_cast<sockaddr*>(&ends.remote), &remote_size) != 0) {
    return std::nullopt;
  }
  return ends;
}

/// Address and port as sock_diag(7) wants them: both in network order.
void put_end(const sockaddr_storage& end, __be32* address, __be16* port) {
  if (end.ss_family == AF_INET) {
    sockaddr_in four{};
    std::memcpy(&four, &end, sizeof four);
    address[0] = four.sin_addr.s_addr;
    *port = four.sin_port;
  } else {
    sockaddr_in6 six{};
    std::memcpy(&six, &end, sizeof six);
    std::memcpy(address, &six.sin6_addr, sizeof six.sin6_addr);
    *port = six.sin6_port;
  }
}

/// Asks the kernel for one socket: sock_diag(7).
std::optional<uid_t> owner_by_netlink(const Ends& ends) {
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } question{};
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST;
  inet_diag_req_v2& request = question.request;
  request.sdiag_family = static_cast<__u8>(ends.local.ss_family);
  request.sdiag_protocol = IPPROTO_TCP;
  request.idiag_states = ~0U;
  request.id.idiag_cookie[0] = request.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  put_end(ends.local, request.id.idiag_src, &request.id.idiag_sport);
  put_end(ends.remote, request.id.idiag_dst, &request.id.idiag_dport);

  const UniqueFd netlink(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink || ::send(netlink.get(), &question, sizeof question, 0) < 0) return std::nullopt;
  alignas(nlmsghdr) std::array<char, 4096> answer;
  // The answer is there when send() returns; without one there is none.
  const ssize_t size = ::recv(netlink.get(), answer.data(), answer.size(), MSG_DONTWAIT);
  struct {
    nlmsghdr header;
    inet_diag_msg found;
  } reply{};
  if (size < static_cast<ssize_t>(sizeof reply)) return std::nullopt;
  std::memcpy(&reply, answer.data(), sizeof reply);
  if (reply.header.nlmsg_type != SOCK_DIAG_BY_FAMILY) return std::nullopt;
  return reply.found.idiag_uid;
}

/// An address as /proc/net/tcp and tcp6 print it: 32-bit words as they lie in memory, then the
/// port.
std::string proc_text(const sockaddr_storage& end) {
  std::array<__be32, 4> address{};
  __be16 port = 0;
  put_end(end, address.data(), &port);
  std::string text;
  const size_t words = end.ss_family == AF_INET ? 1 : 4;
  for (size_t i = 0; i < words; ++i) text += fmt::format("{:08X}", address[i]);
  return fmt::format("{}:{:04X}", text, ntohs(port));
}

/// Looks for the socket in proc(5)'s table: sl local remote st queues timer retransmits uid ...
std::optional<uid_t> owner_by_proc(const Ends& ends) {
  const auto table = try_read_file_at(
      AT_FDCWD, ends.local.ss_family == AF_INET ? "/proc/net/tcp" : "/proc/net/tcp6");
  if (!table) return std::nullopt;
  const std::string local = proc_text(ends.local);
  const std::string remote = proc_text(ends.remote);
  std::istringstream lines(*table);
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
  const std::optional<Ends> ends = ends_of_peer(socket);
  if (!ends) return false;
  std::optional<uid_t> uid = owner_by_netlink(*ends);
  if (!uid) uid = owner_by_proc(*ends);
  return uid && (*uid == geteuid() || *uid == 0);
}

}  // namespace rfork::session
