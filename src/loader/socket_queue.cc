#include "loader/socket_queue.h"

#include <arpa/inet.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/tcp_stream.h"
#include "base/unique_fd.h"
#include "base/value_in.h"
#include "image/socket_options.h"

namespace rfork::loader {

void make_room(int fd, size_t size) {
  const int wanted = static_cast<int>(std::clamp<size_t>(size * 2, 1u << 18, 1u << 29));
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof wanted) == 0) return;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted);
}

namespace {

/// Adds one part to a message's control data.
void add_control(Bytes& control, int type, std::span<const std::byte> data) {
  const size_t start = control.size();
  control.resize(start + CMSG_SPACE(data.size()));
  cmsghdr header{};
  header.cmsg_len = CMSG_LEN(data.size());
  header.cmsg_level = SOL_SOCKET;
  header.cmsg_type = type;
  std::memcpy(control.data() + start, &header, sizeof header);
  std::ranges::copy(data, control.begin() + static_cast<ptrdiff_t>(start + CMSG_LEN(0)));
}

int send_with(int fd, const image::SocketMessage& message, std::span<const int> passed,
              const Bytes& address, const ucred* credentials) {
  iovec vector{const_cast<std::byte*>(message.data.data()), message.data.size()};
  Bytes control;
  if (!passed.empty()) add_control(control, SCM_RIGHTS, std::as_bytes(passed));
  if (credentials != nullptr) {
    add_control(control, SCM_CREDENTIALS, std::as_bytes(std::span(credentials, 1)));
  }
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  if (!address.empty()) {
    header.msg_name = const_cast<std::byte*>(address.data());
    header.msg_namelen = static_cast<socklen_t>(address.size());
  }
  if (!control.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
  }
  const ssize_t n = ::sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n < 0) return errno;
  return n == static_cast<ssize_t>(message.data.size()) ? 0 : EAGAIN;
}

/// Memory that is queued in it.
uint32_t memory_used(int fd) {
  constexpr int kMeminfo = 55;  // SO_MEMINFO
  uint32_t memory[SK_MEMINFO_VARS]{};
  socklen_t size = sizeof memory;
  return ::getsockopt(fd, SOL_SOCKET, kMeminfo, memory, &size) == 0 ? memory[SK_MEMINFO_RMEM_ALLOC]
                                                                    : 0;
}

/// Where a datagram is sent so that it reaches the socket: by this host's own way if it is bound to
/// all addresses.
Bytes way_to(int target) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(target, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  auto* const in = reinterpret_cast<sockaddr_in*>(&address);
  auto* const in6 = reinterpret_cast<sockaddr_in6*>(&address);
  if (address.ss_family == AF_INET && in->sin_addr.s_addr == INADDR_ANY) {
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  if (address.ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr)) {
    in6->sin6_addr = in6addr_loopback;
  }
  const auto* const start = reinterpret_cast<const std::byte*>(&address);
  return {start, start + size};
}

/// A host of IPv4 that an IPv6 socket has heard of.
bool is_mapped(const Bytes& name) {
  const auto address = value_in<sockaddr_in6>(name);
  return address.sin6_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&address.sin6_addr);
}

/// A socket that speaks as the sender. Empty: this host or this user can't have its address.
UniqueFd lend_address(const image::Socket& socket, const image::SocketMessage& message) {
  UniqueFd sender(::socket(socket.family, SOCK_DGRAM | SOCK_CLOEXEC, socket.protocol));
  const int on = 1;
  for (const int option : {SO_REUSEADDR, SO_REUSEPORT}) {
    ::setsockopt(sender.get(), SOL_SOCKET, option, &on, sizeof on);
  }
  // Who may administrate networks may speak for another host.
  ::setsockopt(sender.get(), IPPROTO_IP, IP_TRANSPARENT, &on, sizeof on);
  if (socket.family == AF_INET6) {
    ::setsockopt(sender.get(), IPPROTO_IPV6, IPV6_TRANSPARENT, &on, sizeof on);
  }
  make_room(sender.get(), message.data.size());
  const auto* const from = reinterpret_cast<const sockaddr*>(message.from.data());
  if (::bind(sender.get(), from, static_cast<socklen_t>(message.from.size())) != 0) sender.reset();
  return sender;
}

}  // namespace

int send_message(int fd, const image::SocketMessage& message, std::span<const int> passed,
                 const Bytes& address) {
  ucred credentials{};
  const bool told = message.credentials.size() == sizeof credentials;
  if (told) std::memcpy(&credentials, message.credentials.data(), sizeof credentials);
  // Pid 0: who receives asked to be told when it was on its way already.
  if (credentials.pid == 0) return send_with(fd, message, passed, address, nullptr);
  if (credentials.pid == image::kOwnPid) credentials.pid = ::getpid();
  // Others' only for who may be anybody; then our own, which the child will have.
  if (const int error = send_with(fd, message, passed, address, &credentials);
      error != EPERM && error != ESRCH) {
    return error;
  }
  credentials.pid = ::getpid();
  if (send_with(fd, message, passed, address, &credentials) == 0) return 0;
  credentials.uid = ::geteuid();
  credentials.gid = ::getegid();
  return send_with(fd, message, passed, address, &credentials);
}

bool is_of_another(const image::SocketMessage& message) {
  const auto sender = value_in<ucred>(message.credentials);
  return message.credentials.size() == sizeof sender && sender.pid != 0 &&
         sender.pid != image::kOwnPid;
}

bool may_speak_as_sender(const image::SocketMessage& message) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) != 0) return false;
  const UniqueFd one(ends[0]), other(ends[1]);
  const auto sender = value_in<ucred>(message.credentials);
  return send_with(one.get(), {}, {}, {}, &sender) == 0;
}

int send_stream(int fd, int receiver, std::span<const std::byte> data) {
  constexpr int kPauseMs = 20, kMostPauses = 100;
  ReceiverRoom room(receiver);
  for (int pauses = 0; !data.empty();) {
    const ssize_t n = ::send(fd, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return errno;
    if (n > 0) {
      data = data.subspan(static_cast<size_t>(n));
      pauses = 0;
      continue;
    }
    pollfd one{fd, POLLOUT, 0};
    if (::poll(&one, 1, kPauseMs) == 1) continue;
    if (++pauses > kMostPauses) return ENOBUFS;
    room.widen(static_cast<uint32_t>(data.size()) + tcp_unconfirmed(fd));
  }
  return 0;
}

bool send_datagram(int target, const image::Socket& socket, const image::SocketMessage& message,
                   int own) {
  const UniqueFd lent = own < 0 ? lend_address(socket, message) : UniqueFd();
  const int sender = own < 0 ? lent.get() : own;
  Bytes to = way_to(target);
  if (is_mapped(message.from) && !is_mapped(to)) {
    auto address = value_in<sockaddr_in6>(to);
    if (!IN6_IS_ADDR_LOOPBACK(&address.sin6_addr)) return false;
    ::inet_pton(AF_INET6, "::ffff:127.0.0.1", &address.sin6_addr);
    std::memcpy(to.data(), &address, sizeof address);
  }
  const uint32_t before = memory_used(target);
  return sender >= 0 && send_message(sender, message, {}, to) == 0 && memory_used(target) > before;
}

}  // namespace rfork::loader
