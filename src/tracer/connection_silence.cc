#include "tracer/connection_silence.h"

#include <fmt/format.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "base/socket_option.h"
#include "base/tcp_repair.h"
#include "base/tcp_stream.h"
#include "image/socket_words.h"
#include "tracer/diag_socket.h"
#include "tracer/inventory.h"
#include "tracer/own_channels.h"
#include "tracer/peek_offset.h"
#include "tracer/sockets.h"

namespace rfork::tracer {

namespace {

constexpr int kNetnsCookie = 71;       // SO_NETNS_COOKIE
constexpr int kAuthenticated = 40;     // TCP_AO_INFO
constexpr uint8_t kEstablished = 1;    // TCP_ESTABLISHED
constexpr uint8_t kMicroseconds = 64;  // TCPI_OPT_USEC_TS
constexpr const char* kUrgent = "with urgent data among what the process hasn't read yet (MSG_OOB)";

/// What sock_diag(7) tells of a connection.
struct Told {
  uint32_t unread = 0;
  bool has_key = false;  ///< TCP MD5
};

std::optional<Told> ask_diag(int netlink, const TcpTuple& tuple) {
  struct {
    nlmsghdr header{};
    inet_diag_req_v2 request{};
  } question;
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST;
  question.request.sdiag_protocol = IPPROTO_TCP;
  question.request.sdiag_family = tuple.four ? AF_INET : AF_INET6;
  question.request.idiag_states = ~0u;
  inet_diag_sockid& id = question.request.id;
  id.idiag_sport = tuple.local_port, id.idiag_dport = tuple.peer_port;
  std::memcpy(id.idiag_src, tuple.local.data(), tuple.local.size());
  std::memcpy(id.idiag_dst, tuple.peer.data(), tuple.peer.size());
  id.idiag_cookie[0] = id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  if (::send(netlink, &question, sizeof question, 0) != sizeof question) return std::nullopt;
  alignas(nlmsghdr) std::array<std::byte, 8192> answer;
  const ssize_t size = ::recv(netlink, answer.data(), answer.size(), 0);
  const auto* const message = reinterpret_cast<const nlmsghdr*>(answer.data());
  if (size < 0 || !NLMSG_OK(message, static_cast<size_t>(size)) ||
      message->nlmsg_type != SOCK_DIAG_BY_FAMILY) {
    return std::nullopt;
  }
  Told told;
  inet_diag_msg found;
  std::memcpy(&found, NLMSG_DATA(message), sizeof found);
  told.unread = found.idiag_rqueue;
  size_t at = NLMSG_SPACE(sizeof found);
  while (at + NLA_HDRLEN <= message->nlmsg_len) {
    nlattr attribute;
    std::memcpy(&attribute, answer.data() + at, sizeof attribute);
    if (attribute.nla_len < NLA_HDRLEN) break;
    if (attribute.nla_type == INET_DIAG_MD5SIG) told.has_key = true;
    at += static_cast<size_t>(NLA_ALIGN(attribute.nla_len));
  }
  return told;
}

/// What can't be made anew of it, in words that follow "a socket"; empty: all of it can. `silent`:
/// it is, and its process frozen, so that what two calls tell of its queue is of one moment.
std::string obstacle(int fd, int diag, const image::Socket& socket, bool silent) {
  if (socket.protocol != 0 && socket.protocol != IPPROTO_TCP) {
    return "of another protocol than TCP (MPTCP)";
  }
  const auto tuple = tcp_tuple(fd);
  const auto info = socket_option<tcp_info>(fd, IPPROTO_TCP, TCP_INFO);
  if (!tuple || !info || info->tcpi_state != kEstablished) {
    return "that is being opened or closed, which TCP_REPAIR can't make";
  }
  if (tuple->is_loopback() || tuple->is_link_local()) {
    return "whose own address belongs to each host, and can't move to another";
  }
  const auto here = socket_option<uint64_t>(diag, SOL_SOCKET, kNetnsCookie);
  if (here && here != socket_option<uint64_t>(fd, SOL_SOCKET, kNetnsCookie)) {
    return "of another network namespace than the process is in";
  }
  if ((info->tcpi_options & kMicroseconds) != 0) return "with time stamps in microseconds";
  const auto ulp = socket_option<std::array<char, 16>>(fd, IPPROTO_TCP, TCP_ULP);
  if (ulp && (*ulp)[0] != '\0') {
    return fmt::format("whose data the kernel treats in a way of its own (TCP_ULP \"{}\")",
                       ulp->data());
  }
  if (has_unreadable_filter(fd)) return "with an eBPF filter, which can't be read";
  std::array<std::byte, 256> signature{};
  socklen_t size = signature.size();
  const bool authenticated =
      ::getsockopt(fd, IPPROTO_TCP, kAuthenticated, signature.data(), &size) == 0;
  const auto told = ask_diag(diag, *tuple);
  if (authenticated || (told && told->has_key)) {
    return "whose segments are signed with a key that can't be read (TCP MD5, TCP-AO)";
  }
  pollfd one{fd, POLLPRI, 0};
  const bool polled = ::poll(&one, 1, 0) == 1;
  if (polled && (one.revents & POLLPRI) != 0) return kUrgent;
  if (polled && (one.revents & POLLERR) != 0) {
    return "with an error that the process hasn't asked for yet";
  }
  // Reading ends in front of an urgent byte, also of one that was read out of its turn.
  if (silent && told && told->unread > tcp_readable(fd)) return kUrgent;
  return {};
}

/// MSG_PEEK of a queue in repair mode, which may give more than `size` in front of it: the kernel
/// keeps whole segments of what is acknowledged in part. nullopt: it isn't all there.
std::optional<Bytes> peek(int fd, TcpQueue queue, size_t size) {
  constexpr size_t kMoreInFront = 1u << 20;
  if (size == 0) return Bytes();
  if (tcp_choose_queue(fd, queue) != 0) return std::nullopt;
  const bool sent = queue == TcpQueue::sent;
  Bytes data(size + (sent ? kMoreInFront : 0));
  const ssize_t n = ::recv(fd, data.data(), data.size(), MSG_PEEK | MSG_DONTWAIT);
  if (n < static_cast<ssize_t>(size)) return std::nullopt;
  data.resize(static_cast<size_t>(n));
  data.erase(data.begin(), data.end() - static_cast<ptrdiff_t>(size));
  return data;
}

/// The sequence number behind a queue.
std::optional<uint32_t> end_of(int fd, TcpQueue queue) {
  if (tcp_choose_queue(fd, queue) != 0) return std::nullopt;
  return socket_option<uint32_t>(fd, IPPROTO_TCP, TCP_QUEUE_SEQ);
}

uint32_t count_of(int fd, unsigned long request) {
  int bytes = 0;
  return ::ioctl(fd, request, &bytes) == 0 && bytes > 0 ? static_cast<uint32_t>(bytes) : 0;
}

bool read_windows(int fd, image::TcpConnection& tcp) {
  const auto window = socket_option<tcp_repair_window>(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW);
  const auto stamp = socket_option<uint32_t>(fd, IPPROTO_TCP, TCP_TIMESTAMP);
  const auto segment = socket_option<uint32_t>(fd, IPPROTO_TCP, TCP_MAXSEG);
  if (!window || !stamp || !segment) return false;
  tcp.window_update = window->snd_wl1, tcp.send_window = window->snd_wnd;
  tcp.largest_window = window->max_window;
  tcp.receive_window = window->rcv_wnd, tcp.receive_update = window->rcv_wup;
  tcp.timestamp = *stamp;
  tcp.segment_size = *segment;
  return true;
}

/// Of a silent one. nullopt: it can't be read whole.
std::optional<image::TcpConnection> read_connection(int fd) {
  const PeekOffset from_start = PeekOffset::none(fd);
  const TcpRepair repair(fd);
  if (repair.error() != 0) return std::nullopt;
  const auto info = socket_option<tcp_info>(fd, IPPROTO_TCP, TCP_INFO);
  if (!info || info->tcpi_state != kEstablished) return std::nullopt;
  image::TcpConnection tcp;
  tcp.selective = (info->tcpi_options & TCPI_OPT_SACK) != 0;
  tcp.timestamps = (info->tcpi_options & TCPI_OPT_TIMESTAMPS) != 0;
  tcp.scaling = (info->tcpi_options & TCPI_OPT_WSCALE) != 0;
  tcp.send_scale = info->tcpi_snd_wscale, tcp.receive_scale = info->tcpi_rcv_wscale;
  const uint32_t written = count_of(fd, SIOCOUTQ), not_sent = count_of(fd, SIOCOUTQNSD);
  const uint32_t unread = tcp_readable(fd);
  const auto send_end = end_of(fd, TcpQueue::sent), receive_end = end_of(fd, TcpQueue::received);
  auto in_send_queue = peek(fd, TcpQueue::sent, written);
  auto received = peek(fd, TcpQueue::received, unread);
  if (!send_end || !receive_end || !in_send_queue || !received || not_sent > written ||
      !read_windows(fd, tcp)) {
    return std::nullopt;
  }
  tcp.send_start = *send_end - written;
  tcp.receive_start = *receive_end - unread;
  const auto unsent = in_send_queue->end() - static_cast<ptrdiff_t>(not_sent);
  tcp.not_sent.assign(unsent, in_send_queue->end());
  in_send_queue->erase(unsent, in_send_queue->end());
  tcp.sent = *std::move(in_send_queue);
  tcp.received = *std::move(received);
  return tcp;
}

Reason reason(int number, const image::Socket& socket, const std::string& why) {
  return {fmt::format("descriptor {} is {} {}, and its address would have to move to another host",
                      number, image::socket_words(socket), why),
          fmt::format("try again later, or --drop-fd {} goes on without it", number)};
}

int number_of(const Inventory& inventory, const image::Description& description) {
  const auto found =
      std::ranges::find(inventory.descriptors, description.id, &image::Descriptor::description);
  return found == inventory.descriptors.end() ? -1 : found->fd;
}

std::vector<Reason> find_obstacles(const Examination& examination) {
  const Inventory& inventory = *examination.inventory;
  const UniqueFd diag = diag_socket(examination.pid);
  std::vector<Reason> reasons;
  std::map<ino_t, const image::Description*> kept;
  for (const image::Description& description : inventory.descriptions) {
    if (!description.socket || !description.socket->kept) continue;
    const int number = number_of(inventory, description);
    const UniqueFd own = duplicate_descriptor(examination.pid, number);
    struct stat status {};
    if (!own || ::fstat(own.get(), &status) != 0) continue;  // closed meanwhile
    kept[status.st_ino] = &description;
    const std::string why = obstacle(own.get(), diag.get(), *description.socket, false);
    if (!why.empty()) reasons.push_back(reason(number, *description.socket, why));
  }
  std::set<ino_t> inodes;
  for (const auto& [inode, description] : kept) inodes.insert(inode);
  for (const ino_t inode : held_by_others(inodes, {examination.pid})) {
    const image::Description& one = *kept.at(inode);
    reasons.push_back(
        reason(number_of(inventory, one), *one.socket, "that another process has open, too"));
  }
  return reasons;
}

/// Whether we may: 0, or an errno.
int try_repair(pid_t pid, const Inventory& inventory) {
  for (const image::Description& description : inventory.descriptions) {
    if (!description.socket || !description.socket->kept) continue;
    const UniqueFd own = duplicate_descriptor(pid, number_of(inventory, description));
    if (!own) continue;
    // Any value but those that mean something: who may not do it at all is told that first.
    constexpr int kNothing = 77;
    ::setsockopt(own.get(), IPPROTO_TCP, TCP_REPAIR, &kNothing, sizeof kNothing);
    return errno == EINVAL ? 0 : errno;
  }
  return 0;
}

Refusal cannot(const std::string& what, int error) {
  const bool right = error == EPERM || error == EACCES;
  return {Failure::cannot_carry,
          fmt::format("TCP connections whose address moves to another host can't be kept: {} here "
                      "({})",
                      what, right ? "it takes CAP_NET_ADMIN" : std::strerror(error)),
          right ? "run rfork-trace as root, or leave --keep-tcp out"
                : "leave --keep-tcp out: a ghost relays them"};
}

UniqueFd own_netlink(const Examination& examination) {
  if (const int error = try_repair(examination.pid, *examination.inventory); error != 0) {
    throw cannot("they can't be read", error);
  }
  std::vector<Reason> reasons = find_obstacles(examination);
  if (!reasons.empty()) throw Refusal(Failure::cannot_carry, std::move(reasons));
  return netlink_socket(examination.pid, NETLINK_NETFILTER);
}

TcpSilence make_silence(const Examination& examination) {
  UniqueFd netlink = own_netlink(examination);
  try {
    return TcpSilence(std::move(netlink));
  } catch (const Error& error) {
    throw cannot("they can't be silenced", error.code().value());
  }
}

}  // namespace

ConnectionSilence::ConnectionSilence(const Examination& examination)
    : pid_(examination.pid), silence_(make_silence(examination)) {}

void ConnectionSilence::begin(const Inventory& inventory, bool stopped) {
  std::vector<TcpTuple> tuples;
  for (const KeptSocket& kept : inventory.kept) {
    if (const auto tuple = tcp_tuple(kept.fd.get())) tuples.push_back(*tuple);
  }
  silence_.add(tuples);
  if (witness) witness(silence_.socket(), stopped, inventory.kept);
}

void ConnectionSilence::read(Inventory& inventory, bool glance) const {
  const UniqueFd diag = diag_socket(pid_);
  for (image::Description& description : inventory.descriptions) {
    if (!description.socket || !description.socket->kept) continue;
    image::Socket& socket = *description.socket;
    const auto kept = std::ranges::find(inventory.kept, socket.cookie, &KeptSocket::cookie);
    if (kept == inventory.kept.end()) continue;
    const int fd = kept->fd.get();
    std::string why = obstacle(fd, diag.get(), socket, !glance);
    description.shut = shut_directions(fd, socket);
    socket.tcp = glance || !why.empty() ? image::TcpConnection() : read_connection(fd);
    if (!socket.tcp) why = "with a state that can't be read";
    if (why.empty()) continue;
    inventory.obstacles.push_back(reason(number_of(inventory, description), socket, why));
  }
}

}  // namespace rfork::tracer
