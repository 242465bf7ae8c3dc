#include "tracer/socket_groups.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstring>
#include <optional>
#include <span>

#include "base/io.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

using image::Socket;
using image::SocketMembership;

namespace {

/// A group that the host is in on one interface.
struct Group {
  uint32_t index = 0;
  std::string interface;
  sockaddr_storage address{};
};

Bytes address_bytes(const void* address, size_t size) {
  const auto* const start = static_cast<const std::byte*>(address);
  return {start, start + size};
}

/// /proc/net/igmp: a line for each interface, those of its groups below it, indented.
std::vector<Group> groups_of_ipv4(const std::string& text) {
  std::vector<Group> groups;
  unsigned index = 0, address = 0;
  char name[64] = "";
  for (const std::string_view line : split(text, '\n')) {
    const std::string one(line);
    if (!one.starts_with("\t")) {
      if (std::sscanf(one.c_str(), "%u %63s", &index, name) != 2) index = 0;
    } else if (index != 0 && std::sscanf(one.c_str(), " %x", &address) == 1) {
      Group group{index, name, {}};
      auto* const in = reinterpret_cast<sockaddr_in*>(&group.address);
      in->sin_family = AF_INET;
      in->sin_addr.s_addr = address;
      groups.push_back(group);
    }
  }
  return groups;
}

/// /proc/net/igmp6: "2    eth0            ff020000000000000000000000000001     1 0000000C 0".
std::vector<Group> groups_of_ipv6(const std::string& text) {
  std::vector<Group> groups;
  for (const std::string_view line : split(text, '\n')) {
    unsigned index = 0;
    char name[64] = "", digits[33] = "";
    if (std::sscanf(std::string(line).c_str(), "%u %63s %32s", &index, name, digits) != 3) continue;
    Group group{index, name, {}};
    auto* const in = reinterpret_cast<sockaddr_in6*>(&group.address);
    in->sin6_family = AF_INET6;
    for (size_t i = 0; i < sizeof in->sin6_addr; ++i) {
      unsigned byte = 0;
      std::sscanf(digits + 2 * i, "%2x", &byte);
      in->sin6_addr.s6_addr[i] = static_cast<uint8_t>(byte);
    }
    groups.push_back(group);
  }
  return groups;
}

/// The socket's membership in the group; nullopt: it isn't in it.
std::optional<SocketMembership> membership(int fd, int level, const Group& group) {
  constexpr uint32_t kMostSources = 64;
  alignas(group_filter) std::byte buffer[GROUP_FILTER_SIZE(kMostSources)]{};
  auto* const filter = reinterpret_cast<group_filter*>(buffer);
  filter->gf_interface = group.index;
  std::memcpy(&filter->gf_group, &group.address, sizeof filter->gf_group);
  filter->gf_numsrc = kMostSources;
  socklen_t size = sizeof buffer;
  if (::getsockopt(fd, level, MCAST_MSFILTER, buffer, &size) != 0) return std::nullopt;
  SocketMembership found;
  found.interface = group.interface;
  found.group = address_bytes(&group.address, sizeof group.address);
  found.exclude = filter->gf_fmode == MCAST_EXCLUDE;
  for (uint32_t i = 0; i < filter->gf_numsrc && i < kMostSources; ++i) {
    const auto* const source =
        reinterpret_cast<const std::byte*>(filter->gf_slist_flex) + i * sizeof(sockaddr_storage);
    found.sources.push_back(address_bytes(source, sizeof(sockaddr_storage)));
  }
  return found;
}

void add_memberships(int fd, pid_t pid, Socket& socket) {
  const auto text = [&](const char* file) {
    return try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/net/{}", pid, file)).value_or("");
  };
  // An IPv6 socket may be in groups of both.
  for (const Group& group : groups_of_ipv4(text("igmp"))) {
    if (auto found = membership(fd, IPPROTO_IP, group)) socket.memberships.push_back(*found);
  }
  if (socket.family != AF_INET6) return;
  for (const Group& group : groups_of_ipv6(text("igmp6"))) {
    if (auto found = membership(fd, IPPROTO_IPV6, group)) socket.memberships.push_back(*found);
  }
}

/// A bit for each group, from 1 on.
void add_netlink_groups(int fd, Socket& socket) {
  std::vector<uint32_t> bits(256);
  auto size = static_cast<socklen_t>(bits.size() * sizeof bits[0]);
  if (::getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits.data(), &size) != 0) return;
  for (uint32_t group = 0; group < bits.size() * 32; ++group) {
    if ((bits[group / 32] >> group % 32 & 1) != 0) socket.groups.push_back(group + 1);
  }
}

}  // namespace

void add_groups(int fd, pid_t pid, Socket& socket) {
  const bool internet = socket.family == AF_INET || socket.family == AF_INET6;
  if (internet && socket.type != SOCK_STREAM) add_memberships(fd, pid, socket);
  if (socket.family == AF_NETLINK) add_netlink_groups(fd, socket);
}

int packet_interface(const Bytes& name) {
  sockaddr_ll address{};
  std::memcpy(&address, name.data(), std::min(name.size(), sizeof address));
  return address.sll_ifindex;
}

}  // namespace rfork::tracer
