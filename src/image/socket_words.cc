#include "image/socket_words.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>

namespace rfork::image {

namespace {

constexpr size_t kPathStart = offsetof(sockaddr_un, sun_path);

std::string type_words(const Socket& socket) {
  const bool internet = socket.family == AF_INET || socket.family == AF_INET6;
  const char* const six = socket.family == AF_INET6 ? " over IPv6" : "";
  if (internet && socket.type == SOCK_STREAM) return fmt::format("TCP{}", six);
  if (internet && socket.type == SOCK_DGRAM) return fmt::format("UDP{}", six);
  if (internet) return fmt::format("raw IP protocol {}{}", socket.protocol, six);
  const char* const type = socket.type == SOCK_STREAM  ? "stream"
                           : socket.type == SOCK_DGRAM ? "datagrams"
                           : socket.type == SOCK_RAW   ? "raw"
                                                       : "seqpacket";
  if (socket.family == AF_UNIX) return fmt::format("unix {}", type);
  if (socket.family == AF_NETLINK) return fmt::format("netlink protocol {}", socket.protocol);
  if (socket.family == AF_PACKET) return fmt::format("packet {}", type);
  return fmt::format("family {} {}", socket.family, type);
}

}  // namespace

std::string socket_path(const Bytes& name) {
  if (name.size() <= kPathStart || name[kPathStart] == std::byte{0}) return {};
  const char* const start = reinterpret_cast<const char*>(name.data()) + kPathStart;
  return {start, ::strnlen(start, name.size() - kPathStart)};
}

std::string address_words(const Bytes& name) {
  sockaddr_storage address{};
  std::memcpy(&address, name.data(), std::min(name.size(), sizeof address));
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto* const in = reinterpret_cast<const sockaddr_in*>(&address);
    ::inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
    return fmt::format("{}:{}", text, ntohs(in->sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto* const in6 = reinterpret_cast<const sockaddr_in6*>(&address);
    ::inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
    return fmt::format("[{}]:{}", text, ntohs(in6->sin6_port));
  }
  if (address.ss_family == AF_NETLINK) {
    return fmt::format("port {}", reinterpret_cast<const sockaddr_nl*>(&address)->nl_pid);
  }
  if (address.ss_family != AF_UNIX) return "its address";
  if (const std::string path = socket_path(name); !path.empty()) return path;
  if (name.size() <= kPathStart) return "no name";
  std::string abstract(reinterpret_cast<const char*>(name.data()) + kPathStart,
                       name.size() - kPathStart);
  std::ranges::replace(abstract, '\0', '@');  // as ss(8) and lsof(8) show it
  return abstract;
}

std::string socket_words(const Socket& socket) {
  std::string text = type_words(socket);
  if (socket.listening) text += ", listening";
  if (!socket.name.empty()) text += " at " + address_words(socket.name);
  if (socket.listening) text += fmt::format(", backlog {}", socket.backlog);
  if (!socket.peer.empty()) text += ", to " + address_words(socket.peer);
  if (!socket.interface.empty()) text += " on " + socket.interface;
  if (socket.peer_gone) text += ", its other end is closed";
  if (!socket.memberships.empty() || !socket.groups.empty()) {
    text += fmt::format(", in {} groups", socket.memberships.size() + socket.groups.size());
  }
  if (!socket.filter.empty()) text += ", with a filter";
  if (!socket.pending.empty()) {
    text +=
        fmt::format(", {} of the process's own connections to be accepted", socket.pending.size());
  }
  if (socket.tcp) {
    text += ", kept by TCP_REPAIR";
    for (const auto& [size, words] :
         {std::pair{socket.tcp->sent.size(), "sent and not acknowledged"},
          {socket.tcp->not_sent.size(), "not sent yet"},
          {socket.tcp->received.size(), "not read yet"}}) {
      if (size != 0) text += fmt::format(", {} bytes {}", size, words);
    }
  }
  const bool tcp = socket.family != AF_UNIX && socket.type == SOCK_STREAM;
  if (tcp && !socket.messages.empty()) {
    text += fmt::format(", {} bytes in it", socket.messages[0].data.size());
  } else if (!socket.messages.empty()) {
    text += fmt::format(", {} messages in it", socket.messages.size());
  }
  return text;
}

}  // namespace rfork::image
