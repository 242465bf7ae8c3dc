#include "tracer/tcp_connections.h"

#include <fmt/format.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/tcp_stream.h"
#include "tracer/diag_socket.h"
#include "tracer/inventory.h"
#include "tracer/peek_offset.h"

namespace rfork::tracer {

namespace {

constexpr int kNetnsCookie = 71;  // SO_NETNS_COOKIE
constexpr int kUlp = 31;          // TCP_ULP
constexpr auto kPatience = std::chrono::seconds(2);

template <typename T>
std::optional<T> ask_option(int fd, int level, int option) {
  T value{};
  socklen_t size = sizeof value;
  if (::getsockopt(fd, level, option, &value, &size) != 0) return std::nullopt;
  return value;
}

bool is_on(int fd, int level, int option) {
  return ask_option<int>(fd, level, option).value_or(0) != 0;
}

bool is_tcp(int fd) {
  const int family = ask_option<int>(fd, SOL_SOCKET, SO_DOMAIN).value_or(-1);
  return (family == AF_INET || family == AF_INET6) &&
         ask_option<int>(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM &&
         ask_option<int>(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP;
}

/// A transparent proxy's ends may have the addresses of two others that are connected.
bool is_transparent(int fd) {
  constexpr int kIpv6Transparent = 75;  // IPV6_TRANSPARENT
  return is_on(fd, IPPROTO_IP, IP_TRANSPARENT) || is_on(fd, IPPROTO_IPV6, kIpv6Transparent);
}

/// It has received all that its other end will ever send.
bool has_seen_end(uint8_t state) {
  return state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK || state == TCP_CLOSING ||
         state == TCP_TIME_WAIT || state == TCP_CLOSE;
}

}  // namespace

bool TcpConnections::Endpoint::is_loopback() const {
  in6_addr raw{};
  std::memcpy(&raw, address.data(), sizeof raw);
  return IN6_IS_ADDR_LOOPBACK(&raw) || (IN6_IS_ADDR_V4MAPPED(&raw) && raw.s6_addr[12] == 127);
}

bool TcpConnections::Endpoint::is_mapped() const {
  in6_addr raw{};
  std::memcpy(&raw, address.data(), sizeof raw);
  return IN6_IS_ADDR_V4MAPPED(&raw);
}

bool TcpConnections::Endpoint::is_any() const {
  in6_addr raw{};
  std::memcpy(&raw, address.data(), sizeof raw);
  return IN6_IS_ADDR_UNSPECIFIED(&raw) || (IN6_IS_ADDR_V4MAPPED(&raw) && raw.s6_addr32[3] == 0);
}

TcpConnections::Endpoint TcpConnections::endpoint(int fd, decltype(::getsockname)* ask) {
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  Endpoint found;
  if (ask(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) return found;
  in6_addr address{};
  if (name.ss_family == AF_INET) {
    const auto& four = reinterpret_cast<const sockaddr_in&>(name);
    address.s6_addr16[5] = 0xffff;
    address.s6_addr32[3] = four.sin_addr.s_addr;
    found.port = four.sin_port;
  } else {
    const auto& six = reinterpret_cast<const sockaddr_in6&>(name);
    address = six.sin6_addr;
    found.port = six.sin6_port;
  }
  std::memcpy(found.address.data(), &address, sizeof address);
  return found;
}

void TcpConnections::add(const ChannelEnd& end) {
  if (!S_ISSOCK(end.status.st_mode) || ends_.contains(end.status.st_ino)) return;
  const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  if (!own || !is_tcp(own.get())) return;
  const auto state = tcp_state(own.get());
  if (!state) return;
  End& one = ends_[end.status.st_ino];
  one.pid = end.pid;
  one.fd = end.fd;
  one.description = end.description;
  one.state = state->state;
  one.transparent = is_transparent(own.get());
  one.unread = one.state == TCP_CLOSE && tcp_readable(own.get()) > 0;
  one.space = ask_option<uint64_t>(own.get(), SOL_SOCKET, kNetnsCookie).value_or(0);
  one.shares_port = is_on(own.get(), SOL_SOCKET, SO_REUSEPORT);
  one.local = endpoint(own.get(), ::getsockname);
  one.peer = endpoint(own.get(), ::getpeername);
  const bool connected = one.state != TCP_LISTEN && one.state != TCP_CLOSE;
  if (connected && !one.transparent) {
    by_addresses_[{one.space, one.local, one.peer}] = end.status.st_ino;
  }
}

void TcpConnections::look_at(const std::vector<ChannelEnd>& ends) {
  for (const ChannelEnd& end : ends) add(end);
  if (ends_.empty()) return;
  netlink_ = diag_socket(pid_);
  space_ = ask_option<uint64_t>(netlink_.get(), SOL_SOCKET, kNetnsCookie).value_or(0);
  for (const auto& [inode, end] : ends_) {
    if (const auto link = find_link(end)) links_.emplace(inode, *link);
  }
}

std::optional<TcpLink> TcpConnections::find_link(const End& end) const {
  if (end.state == TCP_LISTEN || end.state == TCP_SYN_SENT) return std::nullopt;
  if (end.state == TCP_CLOSE) {
    // Both ends are closed; what has come before can be read still.
    if (!end.unread) return std::nullopt;
    return TcpLink{TcpLink::Way::gone, 0, 0};
  }
  if (end.transparent) return std::nullopt;
  const auto other = by_addresses_.find({end.space, end.peer, end.local});
  if (other != by_addresses_.end()) {
    return TcpLink{TcpLink::Way::pair, ends_.at(other->second).description, other->second};
  }
  return find_without_descriptor(end);
}

std::optional<TcpLink> TcpConnections::find_without_descriptor(const End& end) const {
  if (!netlink_ || end.space != space_) return std::nullopt;
  const auto told = ask(end.peer, end.local);
  if (!told) return std::nullopt;
  if (told->state == 0) {
    const bool here = end.peer.is_loopback() || end.peer.address == end.local.address;
    if (!here || !has_seen_end(end.state)) return std::nullopt;
    return TcpLink{TcpLink::Way::gone, 0, 0};
  }
  if (told->inode != 0) return std::nullopt;  // another process's
  const bool open = told->state == TCP_ESTABLISHED || told->state == TCP_CLOSE_WAIT ||
                    told->state == TCP_SYN_RECV;
  if (!open) return TcpLink{TcpLink::Way::gone, 0, 0};
  const auto* const listener = listener_of(end.peer);
  // Of several who listen there it isn't told which one has it.
  if (listener == nullptr || listener->second.shares_port) return std::nullopt;
  return TcpLink{TcpLink::Way::waiting, listener->second.description, listener->first};
}

const std::pair<const ino_t, TcpConnections::End>* TcpConnections::listener_of(
    const Endpoint& name) const {
  const std::pair<const ino_t, End>* found = nullptr;
  for (const auto& one : ends_) {
    const End& end = one.second;
    if (end.state != TCP_LISTEN || end.space != space_ || end.local.port != name.port) continue;
    if (end.local.address == name.address) return &one;
    if (end.local.is_any() && found == nullptr) found = &one;
  }
  return found;
}

/// The kernel looks for a connection first, and for who listens then.
std::optional<TcpConnections::Told> TcpConnections::ask(const Endpoint& local,
                                                        const Endpoint& peer) const {
  struct {
    nlmsghdr header{};
    inet_diag_req_v2 request{};
  } question;
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST;
  question.request.sdiag_protocol = IPPROTO_TCP;
  question.request.idiag_states = ~0u;
  inet_diag_sockid& id = question.request.id;
  id.idiag_sport = local.port;
  id.idiag_dport = peer.port;
  // A socket of either family may have addresses of IPv4.
  const bool four = local.is_mapped() && peer.is_mapped();
  constexpr size_t kMapped = 12;
  question.request.sdiag_family = four ? AF_INET : AF_INET6;
  const size_t start = four ? kMapped : 0, size = four ? sizeof(in_addr) : sizeof(in6_addr);
  std::memcpy(id.idiag_src, local.address.data() + start, size);
  std::memcpy(id.idiag_dst, peer.address.data() + start, size);
  id.idiag_cookie[0] = id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  if (::send(netlink_.get(), &question, sizeof question, 0) != sizeof question) return std::nullopt;
  return take_answer();
}

std::optional<TcpConnections::Told> TcpConnections::take_answer() const {
  alignas(nlmsghdr) std::byte answer[8192];
  const ssize_t size = ::recv(netlink_.get(), answer, sizeof answer, 0);
  const auto* const message = reinterpret_cast<const nlmsghdr*>(answer);
  if (size < 0 || !NLMSG_OK(message, static_cast<size_t>(size))) return std::nullopt;
  const std::byte* const body = answer + NLMSG_HDRLEN;
  if (message->nlmsg_type == NLMSG_ERROR) {
    const bool none = reinterpret_cast<const nlmsgerr*>(body)->error == -ENOENT;
    return none ? std::optional(Told()) : std::nullopt;
  }
  if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY) return std::nullopt;
  const auto* const found = reinterpret_cast<const inet_diag_msg*>(body);
  if (found->idiag_state == TCP_LISTEN) return Told();
  return Told{found->idiag_state, found->idiag_inode, found->idiag_rqueue, found->idiag_wqueue};
}

/// Such a byte that nobody has taken, or its place in what is unread: nobody can look beyond it.
bool TcpConnections::has_urgent_data(int fd, const End& end) const {
  pollfd one{fd, POLLPRI, 0};
  if (::poll(&one, 1, 0) == 1 && (one.revents & POLLPRI) != 0) return true;
  const uint32_t before = tcp_readable(fd);
  const auto told = ask(end.local, end.peer);
  const auto state = tcp_state(fd);
  if (!told || !state || told->inode == 0 || tcp_readable(fd) != before) return false;
  return told->unread > before + (has_seen_end(state->state) ? 1 : 0);
}

std::string TcpConnections::obstacle(ino_t inode) const {
  const End& end = ends_.at(inode);
  const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  const auto ulp = ask_option<std::array<char, 16>>(own.get(), IPPROTO_TCP, kUlp);
  if (ulp && (*ulp)[0] != '\0') {
    return fmt::format("whose data the kernel treats in a way of its own (TCP_ULP \"{}\")",
                       ulp->data());
  }
  if (has_urgent_data(own.get(), end)) return kUrgentData;
  if (links_.at(inode).way != TcpLink::Way::waiting) return {};
  const auto state = tcp_state(own.get());
  const uint64_t written = state ? state->sent + state->not_sent : 0;
  const bool ended = end.state != TCP_ESTABLISHED && end.state != TCP_CLOSE_WAIT;
  if (written > (ended && state->not_sent > 0 ? 1 : 0)) {
    return fmt::format(
        "with {} bytes written to a connection that nobody has accepted yet, where "
        "they can't be read",
        written);
  }
  return {};
}

/// Until the end of what a closed end had to send is there.
bool TcpConnections::await_end(int fd, const End& end) const {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  ReceiverRoom room(fd);
  for (;;) {
    const auto state = tcp_state(fd);
    if (!state || has_seen_end(state->state)) return state.has_value();
    if (std::chrono::steady_clock::now() > until) return false;
    const auto told = ask(end.peer, end.local);
    room.widen(told ? told->unsent : 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::string TcpConnections::read(ino_t inode, std::vector<image::SocketMessage>& messages) const {
  const End& end = ends_.at(inode);
  const TcpLink& link = links_.at(inode);
  const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  const int fd = own.get();
  bool arrived = true;
  if (link.way == TcpLink::Way::pair) {
    const End& other = ends_.at(link.other_inode);
    const UniqueFd sender = duplicate_descriptor(other.pid, other.fd);
    arrived = deliver_stream(sender.get(), fd, kPatience);
  } else if (link.way == TcpLink::Way::gone) {
    arrived = await_end(fd, end);
  }
  if (!arrived) return "with bytes on their way to it that don't arrive";
  if (has_urgent_data(fd, end)) return kUrgentData;
  const uint32_t size = tcp_readable(fd);
  if (size == 0) return {};
  const PeekOffset from_start = PeekOffset::none(fd);
  Bytes data(size);
  const ssize_t n = ::recv(fd, data.data(), data.size(), MSG_PEEK | MSG_DONTWAIT);
  if (n != static_cast<ssize_t>(size)) return "with something in it that can't be read whole";
  messages.emplace_back().data = std::move(data);
  return {};
}

}  // namespace rfork::tracer
