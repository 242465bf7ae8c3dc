#include "session/local_addresses.h"

#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"

namespace rfork::session {

namespace {

using Address = std::pair<bool, std::array<std::byte, 16>>;  // whether it is IPv4's, and its bytes

Address address_in(int family, const rtattr& attribute, const std::byte* value) {
  Address address{family == AF_INET, {}};
  const size_t size = RTA_PAYLOAD(&attribute);
  std::memcpy(address.second.data(), value, std::min(size, address.second.size()));
  return address;
}

void add_address(const nlmsghdr& header, const std::byte* message, std::set<Address>& addresses) {
  ifaddrmsg about;
  std::memcpy(&about, message + NLMSG_HDRLEN, sizeof about);
  std::optional<Address> peer, local;
  for (size_t at = NLMSG_SPACE(sizeof about); at + sizeof(rtattr) <= header.nlmsg_len;) {
    rtattr attribute;
    std::memcpy(&attribute, message + at, sizeof attribute);
    if (attribute.rta_len < sizeof attribute || at + attribute.rta_len > header.nlmsg_len) break;
    const std::byte* const value = message + at + RTA_LENGTH(0);
    // Of a point-to-point link IFA_ADDRESS is the other end's.
    if (attribute.rta_type == IFA_ADDRESS) peer = address_in(about.ifa_family, attribute, value);
    if (attribute.rta_type == IFA_LOCAL) local = address_in(about.ifa_family, attribute, value);
    at += RTA_ALIGN(attribute.rta_len);
  }
  if (local || peer) addresses.insert(local ? *local : *peer);
}

struct Addresses {
  std::set<Address> all;
  bool changed = false;  ///< while they were read
};

/// nullopt: not all of them could be read.
std::optional<Addresses> addresses_of(int route) {
  struct {
    nlmsghdr header{};
    ifaddrmsg about{};
  } question;
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = RTM_GETADDR;
  question.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  question.header.nlmsg_seq = 1;
  question.about.ifa_family = AF_UNSPEC;
  if (::send(route, &question, sizeof question, 0) != sizeof question) return std::nullopt;
  Addresses addresses;
  alignas(nlmsghdr) std::array<std::byte, 32768> buffer;
  for (;;) {
    const ssize_t size = ::recv(route, buffer.data(), buffer.size(), 0);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return std::nullopt;
    size_t left = static_cast<size_t>(size), at = 0;
    while (left >= sizeof(nlmsghdr)) {
      nlmsghdr header;
      std::memcpy(&header, buffer.data() + at, sizeof header);
      if (header.nlmsg_len < sizeof header || header.nlmsg_len > left) break;
      // What changes meanwhile comes without the number of the question.
      if (header.nlmsg_seq != question.header.nlmsg_seq) {
        addresses.changed = true;
      } else if (header.nlmsg_type == NLMSG_DONE) {
        return addresses;
      } else if (header.nlmsg_type == NLMSG_ERROR) {
        return std::nullopt;
      } else if (header.nlmsg_type == RTM_NEWADDR) {
        add_address(header, buffer.data() + at, addresses.all);
      }
      const size_t step = std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), left);
      at += step, left -= step;
    }
  }
}

}  // namespace

void listen_to_addresses(int route) {
  sockaddr_nl groups{};
  groups.nl_family = AF_NETLINK;
  groups.nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
  if (::bind(route, reinterpret_cast<const sockaddr*>(&groups), sizeof groups) != 0) {
    throw_errno("bind", "rtnetlink");
  }
}

void await_departure(int route, const std::vector<TcpTuple>& connections) {
  for (;;) {
    const auto here = addresses_of(route);
    const auto is_here = [&](const TcpTuple& tuple) {
      return here->all.contains({tuple.four, tuple.local});
    };
    if (here && std::ranges::none_of(connections, is_here)) return;
    if (here && here->changed) continue;
    if (!here) {
      constexpr useconds_t kMoment = 100'000;
      ::usleep(kMoment);
      continue;
    }
    std::array<std::byte, 4096> event;
    (void)::recv(route, event.data(), event.size(), 0);
  }
}

}  // namespace rfork::session
