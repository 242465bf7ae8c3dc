#include "tracer/ask_options.h"

#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "image/socket_options.h"

namespace rfork::tracer {

using image::SocketOptionKind;

std::string interface_name(int fd, int index) {
  ifreq request{};
  request.ifr_ifindex = index;
  return index != 0 && ::ioctl(fd, SIOCGIFNAME, &request) == 0 ? request.ifr_name : "";
}

namespace {

Bytes option_value(int fd, const SocketOptionKind& kind, Bytes value) {
  if (kind.form != SocketOptionKind::Form::interface &&
      kind.form != SocketOptionKind::Form::interface_in_network_order) {
    return value;
  }
  uint32_t index = 0;
  std::memcpy(&index, value.data(), std::min(value.size(), sizeof index));
  if (kind.form == SocketOptionKind::Form::interface_in_network_order) index = ntohl(index);
  const std::string name = interface_name(fd, static_cast<int>(index));
  const auto* const start = reinterpret_cast<const std::byte*>(name.data());
  return {start, start + name.size()};
}

/// Whether the kernel has options of this level for such a socket: a process with thousands of
/// unix sockets needn't wait until each has been asked for those of TCP.
bool has_level(const image::Socket& socket, int level) {
  const bool internet = socket.family == AF_INET || socket.family == AF_INET6;
  switch (level) {
    case SOL_SOCKET:
      return true;
    case SOL_NETLINK:
      return socket.family == AF_NETLINK;
    case SOL_PACKET:
      return socket.family == AF_PACKET;
    case IPPROTO_IPV6:
      return socket.family == AF_INET6;
    case IPPROTO_TCP:
      return internet && socket.type == SOCK_STREAM;
    case IPPROTO_UDP:
      return internet && socket.type == SOCK_DGRAM;
    case IPPROTO_UDPLITE:
      return internet && socket.protocol == IPPROTO_UDPLITE;
    default:
      return internet;
  }
}

}  // namespace

std::vector<image::SocketOption> ask_options(int fd, const image::Socket& socket) {
  std::vector<image::SocketOption> options;
  for (const SocketOptionKind& kind : image::socket_options()) {
    if (!has_level(socket, kind.level)) continue;
    Bytes value(kind.size);
    socklen_t size = kind.size;
    if (::getsockopt(fd, kind.level, kind.option, value.data(), &size) != 0) continue;
    value.resize(std::min<socklen_t>(size, kind.size));
    options.push_back({kind.name, option_value(fd, kind, std::move(value))});
  }
  return options;
}

void leave_out_of_tcp(bool connected, std::vector<image::SocketOption>& options) {
  constexpr std::array kMeaningless{"IP_MULTICAST_TTL", "IP_MULTICAST_IF", "IPV6_MULTICAST_HOPS",
                                    "IPV6_MULTICAST_IF"};
  constexpr std::array kOfConnection{"TCP_MAXSEG",       "TCP_WINDOW_CLAMP",     "TCP_FASTOPEN",
                                     "TCP_FASTOPEN_KEY", "TCP_FASTOPEN_CONNECT", "SO_INCOMING_CPU"};
  const auto is_in = [](const auto& names, const std::string& name) {
    return std::ranges::find(names, name) != names.end();
  };
  // Without a queue for it the key is the host's.
  const auto queue = std::ranges::find(options, "TCP_FASTOPEN", &image::SocketOption::name);
  const bool has_key = queue != options.end() && queue->value != Bytes(queue->value.size());
  std::erase_if(options, [&](const image::SocketOption& option) {
    return is_in(kMeaningless, option.name) || (connected && is_in(kOfConnection, option.name)) ||
           (!has_key && option.name == "TCP_FASTOPEN_KEY");
  });
}

void leave_out_of_relay(std::vector<image::SocketOption>& options) {
  constexpr std::array kOfTheWay{"SO_BINDTODEVICE",    "SO_MARK",     "SO_DONTROUTE",
                                 "SO_MAX_PACING_RATE", "SO_TXTIME",   "SO_INCOMING_CPU",
                                 "TCP_CONGESTION",     "TCP_TX_DELAY"};
  std::erase_if(options, [&](const image::SocketOption& option) {
    const int level = image::find_socket_option(option.name)->level;
    const bool of_program = level == SOL_SOCKET || level == IPPROTO_TCP;
    return !of_program || std::ranges::find(kOfTheWay, option.name) != kOfTheWay.end();
  });
}

}  // namespace rfork::tracer
