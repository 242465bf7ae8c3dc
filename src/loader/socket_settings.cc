#include "loader/socket_settings.h"

#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/value_in.h"

namespace rfork::loader {

using image::Socket;
using image::SocketMembership;
using image::SocketOptionKind;

namespace {

using Form = SocketOptionKind::Form;

std::optional<Bytes> current(int fd, const SocketOptionKind& kind) {
  Bytes value(kind.size);
  socklen_t size = kind.size;
  if (::getsockopt(fd, kind.level, kind.option, value.data(), &size) != 0) return std::nullopt;
  value.resize(std::min<socklen_t>(size, kind.size));
  return value;
}

Bytes bytes_of(uint32_t number) {
  Bytes bytes(sizeof number);
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

uint32_t number_of(const Bytes& bytes) {
  return value_in<uint32_t>(bytes);
}

/// The value as getsockopt(2) would give it here.
Bytes wanted_here(int fd, const SocketOptionKind& kind, const Bytes& value) {
  if (kind.form != Form::interface && kind.form != Form::interface_in_network_order) return value;
  const auto* const name = reinterpret_cast<const char*>(value.data());
  const auto index = static_cast<uint32_t>(interface_index(fd, {name, value.size()}));
  return bytes_of(kind.form == Form::interface ? index : htonl(index));
}

bool set(int fd, const SocketOptionKind& kind, const Bytes& value) {
  const auto size = static_cast<socklen_t>(value.size());
  if (kind.form != Form::buffer) {
    return ::setsockopt(fd, kind.level, kind.option, value.data(), size) == 0;
  }
  // The kernel doubles what is set. Beyond the host's limit only who may administrate networks.
  const uint32_t half = number_of(value) / 2;
  const int forced = kind.option == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;
  return ::setsockopt(fd, SOL_SOCKET, forced, &half, sizeof half) == 0 ||
         ::setsockopt(fd, SOL_SOCKET, kind.option, &half, sizeof half) == 0;
}

bool is_zero(const Bytes& value) {
  return std::ranges::all_of(value, [](std::byte byte) { return byte == std::byte{0}; });
}

/// A linger time that isn't in use.
bool is_off(const SocketOptionKind& kind, const Bytes& value) {
  return kind.level == SOL_SOCKET && kind.option == SO_LINGER && number_of(value) == 0;
}

/// Whether the size of a buffer is the kernel's own choice, which changes as it likes.
bool is_left_to_kernel(const Socket& socket, const SocketOptionKind& kind) {
  constexpr uint32_t kSendLocked = 1, kReceiveLocked = 2;  // SOCK_SNDBUF_LOCK, SOCK_RCVBUF_LOCK
  if (kind.form != Form::buffer || socket.type != SOCK_STREAM || socket.family == AF_UNIX) {
    return false;
  }
  const auto lock = std::ranges::find(socket.options, "SO_BUF_LOCK", &image::SocketOption::name);
  const uint32_t wanted = kind.option == SO_SNDBUF ? kSendLocked : kReceiveLocked;
  return lock != socket.options.end() && (number_of(lock->value) & wanted) == 0;
}

void set_option(int fd, const SocketOptionKind& kind, const Bytes& value, bool of_kernel,
                const std::string& words, Findings& findings) {
  const auto before = current(fd, kind);
  const Bytes wanted = wanted_here(fd, kind, value);
  if (of_kernel && before && number_of(*before) >= number_of(wanted)) return;
  if (before == wanted || (!before && is_zero(wanted))) return;
  const bool done = before && set(fd, kind, wanted);
  const int error = before ? errno : ENOPROTOOPT;
  const auto after = done ? current(fd, kind) : std::nullopt;
  if (of_kernel || (done && (after == wanted || is_off(kind, wanted)))) return;
  if (kind.tuning || done) {
    const std::string why = done ? "it is another value here" : std::strerror(error);
    findings.warn(fmt::format("{} of {} can't be set as it was: {}", kind.name, words, why));
  } else {
    findings.refuse(
        fmt::format("{} of {} can't be set here: {}", kind.name, words, std::strerror(error)));
  }
}

sockaddr_storage address_of(const Bytes& bytes) {
  return value_in<sockaddr_storage>(bytes);
}

bool join(int fd, const SocketMembership& membership) {
  const sockaddr_storage group = address_of(membership.group);
  const int level = group.ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
  const auto index = static_cast<uint32_t>(interface_index(fd, membership.interface));
  if (index == 0) {
    errno = ENODEV;
    return false;
  }
  if (membership.exclude) {
    group_req request{index, group};
    if (::setsockopt(fd, level, MCAST_JOIN_GROUP, &request, sizeof request) != 0) return false;
  }
  const int option = membership.exclude ? MCAST_BLOCK_SOURCE : MCAST_JOIN_SOURCE_GROUP;
  return std::ranges::all_of(membership.sources, [&](const Bytes& source) {
    group_source_req request{index, group, address_of(source)};
    return ::setsockopt(fd, level, option, &request, sizeof request) == 0;
  });
}

}  // namespace

std::string drop_advice(int fd) {
  return fmt::format("--drop-fd {} goes on without it", fd);
}

int interface_index(int fd, const std::string& name) {
  ifreq request{};
  if (name.empty() || name.size() >= sizeof request.ifr_name) return 0;
  std::ranges::copy(name, request.ifr_name);
  return ::ioctl(fd, SIOCGIFINDEX, &request) == 0 ? request.ifr_ifindex : 0;
}

void set_options(int fd, const Socket& socket, SocketOptionKind::Time time,
                 const std::string& words, Findings& findings) {
  for (const image::SocketOption& option : socket.options) {
    const SocketOptionKind* const kind = image::find_socket_option(option.name);
    if (kind == nullptr) {
      if (time == SocketOptionKind::Time::normal && !is_zero(option.value)) {
        findings.refuse(
            fmt::format("{} has the option {}, which isn't known here", words, option.name),
            "use the rfork that wrote the image, or a later one");
      }
    } else if (kind->time == time) {
      set_option(fd, *kind, option.value, is_left_to_kernel(socket, *kind), words, findings);
    }
  }
}

void set_filter(int fd, const Socket& socket, const std::string& words, Findings& findings) {
  if (socket.filter.empty()) return;
  std::vector<sock_filter> code(socket.filter.size() / sizeof(sock_filter));
  std::memcpy(code.data(), socket.filter.data(), code.size() * sizeof(sock_filter));
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0) {
    findings.refuse(
        fmt::format("the filter of {} can't be set here: {}", words, std::strerror(errno)));
  }
}

void join_groups(int fd, const Socket& socket, const std::string& words, Findings& findings) {
  for (const SocketMembership& membership : socket.memberships) {
    if (join(fd, membership)) continue;
    findings.refuse(fmt::format("{} can't join its multicast group on {} here: {}", words,
                                membership.interface, std::strerror(errno)));
  }
  for (const uint32_t group : socket.groups) {
    if (::setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0) continue;
    findings.refuse(
        fmt::format("{} can't join netlink group {} here: {}", words, group, std::strerror(errno)));
  }
}

}  // namespace rfork::loader
