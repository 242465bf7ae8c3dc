#include "tracer/sockets.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>

#include "base/socket_option.h"
#include "image/socket_words.h"
#include "tracer/ask_options.h"
#include "tracer/peek_offset.h"
#include "tracer/socket_groups.h"
#include "tracer/socket_obstacles.h"

namespace rfork::tracer {

using image::Socket;

namespace {

constexpr size_t kMostMessages = 1u << 20;
constexpr int kMptcp = 262;        // IPPROTO_MPTCP
constexpr int kGetFilter = 26;     // SO_GET_FILTER
constexpr int kSocketCookie = 57;  // SO_COOKIE
constexpr int kMeminfo = 55;       // SO_MEMINFO

Bytes address_bytes(const sockaddr_storage& address, socklen_t size) {
  const auto* const start = reinterpret_cast<const std::byte*>(&address);
  return {start, start + std::min<size_t>(size, sizeof address)};
}

Bytes own_name(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  const auto* const in = reinterpret_cast<const sockaddr_in*>(&address);
  const auto* const in6 = reinterpret_cast<const sockaddr_in6*>(&address);
  bool bound = true;
  if (address.ss_family == AF_UNIX) bound = size > sizeof(sa_family_t);
  if (address.ss_family == AF_INET) bound = in->sin_port != 0 || in->sin_addr.s_addr != 0;
  if (address.ss_family == AF_INET6) {
    bound = in6->sin6_port != 0 || !IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr);
  }
  if (address.ss_family == AF_NETLINK) {
    bound = reinterpret_cast<const sockaddr_nl*>(&address)->nl_pid != 0;
  }
  return bound ? address_bytes(address, size) : Bytes{};
}

Bytes peer_name(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  const bool unnamed = address.ss_family == AF_UNIX && size <= sizeof(sa_family_t);
  return unnamed ? Bytes{} : address_bytes(address, size);
}

Socket kind_of(int fd) {
  Socket socket;
  socket.family = socket_option<int>(fd, SOL_SOCKET, SO_DOMAIN).value_or(-1);
  socket.type = socket_option<int>(fd, SOL_SOCKET, SO_TYPE).value_or(-1);
  socket.protocol = socket_option<int>(fd, SOL_SOCKET, SO_PROTOCOL).value_or(0);
  return socket;
}

std::string interface_of_name(int fd, const Socket& socket) {
  int index = 0;
  if (socket.family == AF_INET6 && socket.name.size() >= sizeof(sockaddr_in6)) {
    sockaddr_in6 address{};
    std::memcpy(&address, socket.name.data(), sizeof address);
    index = static_cast<int>(address.sin6_scope_id);
  }
  if (socket.family == AF_PACKET) index = packet_interface(socket.name);
  return interface_name(fd, index);
}

Bytes ask_filter(int fd) {
  socklen_t count = 0;
  if (::getsockopt(fd, SOL_SOCKET, kGetFilter, nullptr, &count) != 0 || count == 0) return {};
  Bytes filter(count * sizeof(sock_filter));
  if (::getsockopt(fd, SOL_SOCKET, kGetFilter, filter.data(), &count) != 0) return {};
  return filter;
}

bool is_tcp(const Socket& socket) {
  return (socket.family == AF_INET || socket.family == AF_INET6) && socket.type == SOCK_STREAM &&
         (socket.protocol == IPPROTO_TCP || socket.protocol == kMptcp);
}

/// Whether all there is of it can be asked for: not of a connection with another process.
bool stands_alone(int fd, const Socket& socket) {
  switch (socket.family) {
    case AF_UNIX:
    case AF_NETLINK:
    case AF_PACKET:
      return true;
    case AF_INET:
    case AF_INET6:
      if (is_tcp(socket)) {
        const auto info = socket_option<tcp_info>(fd, IPPROTO_TCP, TCP_INFO);
        return info && (info->tcpi_state == TCP_CLOSE || info->tcpi_state == TCP_LISTEN);
      }
      return socket.type == SOCK_DGRAM || socket.type == SOCK_RAW;
    default:
      return false;
  }
}

/// Takes credentials and descriptors; false if there was more than fits.
bool take_control(msghdr& message, PeekedMessage& taken) {
  constexpr int kPidfd = 4;  // SCM_PIDFD: one that is made anew for each receiver
  for (cmsghdr* one = CMSG_FIRSTHDR(&message); one != nullptr; one = CMSG_NXTHDR(&message, one)) {
    if (one->cmsg_level != SOL_SOCKET) continue;
    const std::byte* const data = reinterpret_cast<std::byte*>(CMSG_DATA(one));
    const size_t size = one->cmsg_len - CMSG_LEN(0);
    if (one->cmsg_type == SCM_CREDENTIALS) taken.message.credentials.assign(data, data + size);
    if (one->cmsg_type != SCM_RIGHTS && one->cmsg_type != kPidfd) continue;
    for (size_t i = 0; i < size / sizeof(int); ++i) {
      int passed;
      std::memcpy(&passed, data + i * sizeof passed, sizeof passed);
      UniqueFd own(passed);
      if (one->cmsg_type == SCM_RIGHTS) taken.passed.push_back(std::move(own));
    }
  }
  return (message.msg_flags & MSG_CTRUNC) == 0;
}

/// One peek. nullopt: nothing more is there. `whole`: false if not all of it is taken.
std::optional<PeekedMessage> peek_one(int fd, std::span<std::byte> buffer, bool& whole) {
  sockaddr_storage from{};
  alignas(cmsghdr) std::byte control[4096];
  iovec vector{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_name = &from;
  message.msg_namelen = sizeof from;
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) return std::nullopt;
  PeekedMessage taken;
  taken.message.data.assign(buffer.begin(), buffer.begin() + n);
  const bool named = message.msg_namelen > sizeof(sa_family_t);
  if (named) taken.message.from = address_bytes(from, message.msg_namelen);
  whole = take_control(message, taken) && (message.msg_flags & MSG_TRUNC) == 0;
  return taken;
}

/// How many of the `size` bytes that the last peek gave stand before those with descriptors, behind
/// which it ended. The kernel copies what was sent at once as a whole or, when the last byte has no
/// place, not at all.
size_t bytes_before_descriptors(int fd, std::span<std::byte> buffer, size_t size) {
  void* const nowhere = reinterpret_cast<void*>(8);
  iovec vectors[] = {{buffer.data(), size - 1}, {nowhere, 1}};
  alignas(cmsghdr) std::byte control[4096];
  msghdr message{};
  message.msg_iov = vectors;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  PeekedMessage closed;
  if (n >= 0) take_control(message, closed);
  return n > 0 ? static_cast<size_t>(n) : 0;
}

/// Bytes that are queued; of sockets of single messages, those of the first, or of all.
size_t queued_bytes(int fd) {
  int size = 0;
  return ::ioctl(fd, FIONREAD, &size) == 0 && size > 0 ? static_cast<size_t>(size) : 0;
}

/// Whether the other end sends no more.
bool is_at_end(int fd) {
  pollfd state{fd, POLLRDHUP, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & POLLRDHUP) != 0;
}

bool has_messages(const Socket& socket) {
  if (socket.listening) return false;
  if (socket.family == AF_UNIX) return socket.connected || socket.type == SOCK_DGRAM;
  return (socket.family == AF_INET || socket.family == AF_INET6) && socket.type == SOCK_DGRAM;
}

}  // namespace

std::string socket_in_words(int fd) {
  Socket socket = kind_of(fd);
  if (socket.family < 0) return {};
  socket.name = own_name(fd);
  socket.peer = peer_name(fd);
  return image::socket_words(socket);
}

std::optional<Socket> describe_socket(int fd, pid_t pid, bool linked) {
  Socket socket = kind_of(fd);
  if (!linked && !stands_alone(fd, socket)) return std::nullopt;
  socket.listening = socket_option<int>(fd, SOL_SOCKET, SO_ACCEPTCONN).value_or(0) != 0;
  socket.cookie = socket_option<uint64_t>(fd, SOL_SOCKET, kSocketCookie).value_or(0);
  socket.name = own_name(fd);
  if (!is_tcp(socket) || linked) socket.peer = peer_name(fd);
  socket.interface = interface_of_name(fd, socket);
  if (is_tcp(socket) && socket.listening) {
    // Of a listening socket: what its queue holds, and may hold (include/uapi/linux/tcp.h).
    socket.backlog = static_cast<int32_t>(
        socket_option<tcp_info>(fd, IPPROTO_TCP, TCP_INFO).value_or(tcp_info{}).tcpi_sacked);
  }
  socket.options = ask_options(fd, socket);
  if (is_tcp(socket)) leave_out_of_tcp(linked, socket.options);
  socket.filter = ask_filter(fd);
  add_groups(fd, pid, socket);
  socket.error = has_error(fd);
  const bool raw = socket.family != AF_NETLINK && socket.type == SOCK_RAW;
  if (raw || socket.family == AF_PACKET) socket.left = memory_queued(fd);
  return socket;
}

Socket describe_relayed_socket(int fd) {
  Socket socket = kind_of(fd);
  socket.name = own_name(fd);
  socket.peer = peer_name(fd);
  socket.interface = interface_of_name(fd, socket);
  socket.options = ask_options(fd, socket);
  if (is_tcp(socket)) leave_out_of_tcp(true, socket.options);
  leave_out_of_relay(socket.options);
  return socket;
}

int32_t shut_directions(int fd, const Socket& socket) {
  pollfd state{fd, POLLRDHUP, 0};
  const bool reads_no_more =
      !socket.listening && ::poll(&state, 1, 0) == 1 && (state.revents & POLLRDHUP) != 0;
  if (is_tcp(socket) && socket.connected) {
    const int now =
        socket_option<tcp_info>(fd, IPPROTO_TCP, TCP_INFO).value_or(tcp_info{}).tcpi_state;
    const bool ended_by_other =
        now != TCP_ESTABLISHED && now != TCP_FIN_WAIT1 && now != TCP_FIN_WAIT2;
    const bool writes = now == TCP_ESTABLISHED || now == TCP_CLOSE_WAIT;
    return (reads_no_more && !ended_by_other ? 1 : 0) | (writes ? 0 : 2);
  }
  if (!reads_no_more) return 0;
  // A TCP socket that is closed says POLLHUP in any case.
  return is_tcp(socket) || (state.revents & POLLHUP) != 0 ? 3 : 1;
}

bool is_tcp_connection(int fd) {
  const Socket socket = kind_of(fd);
  return is_tcp(socket) && !stands_alone(fd, socket);
}

uint32_t not_accepted(int fd) {
  return socket_option<tcp_info>(fd, IPPROTO_TCP, TCP_INFO).value_or(tcp_info{}).tcpi_unacked;
}

uint64_t memory_queued(int fd) {
  const auto memory =
      socket_option<std::array<uint32_t, SK_MEMINFO_VARS>>(fd, SOL_SOCKET, kMeminfo);
  return memory ? (*memory)[SK_MEMINFO_RMEM_ALLOC] : 0;
}

bool is_in_fanout(int fd) {
  constexpr int kFanout = 18;  // PACKET_FANOUT
  return socket_option<int>(fd, SOL_PACKET, kFanout).value_or(0) != 0;
}

bool has_unreadable_filter(int fd) {
  socklen_t count = 0;
  return ::getsockopt(fd, SOL_SOCKET, kGetFilter, nullptr, &count) != 0 && errno == EACCES;
}

std::optional<std::vector<PeekedMessage>> peek_messages(int fd, const Socket& socket) {
  constexpr size_t kBuffer = 64u << 20;  // more than a message has; untouched pages cost nothing
  std::vector<PeekedMessage> messages;
  if (!has_messages(socket)) return messages;
  const bool stream = socket.type == SOCK_STREAM;
  // Behind the last packet there is the end, which looks like one more that is empty.
  const bool ends = socket.type == SOCK_SEQPACKET && is_at_end(fd);
  const size_t total = queued_bytes(fd);  // of these two types, of all that is queued
  if ((stream || ends) && total == 0) return messages;
  const PeekOffset peek(fd);
  if (!peek.set(0)) return std::nullopt;
  const std::unique_ptr<std::byte[]> memory(new std::byte[kBuffer]);
  const std::span<std::byte> buffer(memory.get(), kBuffer);
  for (size_t offset = 0; !(stream || ends) || offset < total;) {
    // The peek would be told of it instead of the process.
    if (!stream && has_error(fd)) return std::nullopt;
    bool whole = true;
    auto one = peek_one(fd, buffer, whole);
    if (!one) break;
    if (!whole || (stream && one->message.data.empty())) return std::nullopt;
    if (stream && !one->passed.empty()) {
      peek.set(static_cast<int>(offset));
      const size_t plain = bytes_before_descriptors(fd, buffer, one->message.data.size());
      if (plain > 0) {
        one->message.data.resize(plain);
        one->passed.clear();
      }
      peek.set(static_cast<int>(offset + one->message.data.size()));
    }
    offset += one->message.data.size();
    if ((stream || ends) && offset > total) return std::nullopt;
    messages.push_back(*std::move(one));
    if (messages.size() > kMostMessages) return std::nullopt;
  }
  return messages;
}

}  // namespace rfork::tracer
