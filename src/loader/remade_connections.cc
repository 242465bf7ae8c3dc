#include "loader/remade_connections.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "base/socket_option.h"
#include "base/tcp_repair.h"
#include "loader/bind_socket.h"
#include "loader/internet_name.h"
#include "loader/socket_settings.h"

namespace rfork::loader {

using image::Socket;
using image::TcpConnection;

namespace {

constexpr int kIpv6Transparent = 75;  // IPV6_TRANSPARENT
constexpr int kBufferLock = 72;       // SO_BUF_LOCK
constexpr uint32_t kMaximumSegment = 2, kWindowScale = 3, kSelective = 4,
                   kTimestamps = 8;  // TCPOPT_*, RFC 9293 and 7323

/// An option has another value while this lives.
template <typename T>
class OtherValue {
 public:
  OtherValue(int fd, int level, int option, T value, int set_by = 0)
      : fd_(fd), level_(level), option_(option), before_(socket_option<T>(fd, level, option)) {
    (void)::setsockopt(fd, level, set_by != 0 ? set_by : option, &value, sizeof value);
  }
  ~OtherValue() {
    if (before_) (void)::setsockopt(fd_, level_, option_, &*before_, sizeof *before_);
  }
  OtherValue(const OtherValue&) = delete;
  OtherValue& operator=(const OtherValue&) = delete;

 private:
  int fd_, level_, option_;
  std::optional<T> before_;
};

/// Room in a queue for more than the host's limits allow, for a while.
class Room {
 public:
  Room(int fd, bool sends, size_t bytes)
      : fd_(fd),
        forced_(sends ? SO_SNDBUFFORCE : SO_RCVBUFFORCE),
        lock_(socket_option<uint32_t>(fd, SOL_SOCKET, kBufferLock)),
        before_(socket_option<int>(fd, SOL_SOCKET, sends ? SO_SNDBUF : SO_RCVBUF).value_or(0)) {
    // The kernel doubles it, and counts what small pieces cost.
    constexpr size_t kMost = 1u << 30;
    set(std::max(before_ / 2, static_cast<int>(std::min(bytes * 2 + (1u << 20), kMost))));
  }
  ~Room() {
    set(before_ / 2);
    if (lock_) (void)::setsockopt(fd_, SOL_SOCKET, kBufferLock, &*lock_, sizeof *lock_);
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;

 private:
  void set(int half) const { (void)::setsockopt(fd_, SOL_SOCKET, forced_, &half, sizeof half); }
  int fd_, forced_;
  std::optional<uint32_t> lock_;
  int before_;
};

/// 0, or an errno.
int put(int fd, std::span<const std::byte> data) {
  constexpr size_t kPiece = 64u << 10;
  while (!data.empty()) {
    const ssize_t n =
        ::send(fd, data.data(), std::min(data.size(), kPiece), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    data = data.subspan(static_cast<size_t>(n));
  }
  return 0;
}

int put_into_queue(int fd, TcpQueue queue, const Bytes& data) {
  if (data.empty()) return 0;
  const Room room(fd, queue == TcpQueue::sent, data.size());
  if (const int error = tcp_choose_queue(fd, queue); error != 0) return error;
  return put(fd, data);
}

int set_start(int fd, TcpQueue queue, uint32_t number) {
  if (const int error = tcp_choose_queue(fd, queue); error != 0) return error;
  return ::setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &number, sizeof number) == 0 ? 0 : errno;
}

/// What both ends agreed on when the connection was opened.
int set_agreement(int fd, const TcpConnection& tcp) {
  std::vector<tcp_repair_opt> options{{kMaximumSegment, tcp.segment_size}};
  if (tcp.scaling) options.push_back({kWindowScale, tcp.send_scale | tcp.receive_scale << 16});
  if (tcp.selective) options.push_back({kSelective, 0});
  if (tcp.timestamps) options.push_back({kTimestamps, 0});
  const auto size = static_cast<socklen_t>(options.size() * sizeof options[0]);
  return ::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(), size) == 0 ? 0 : errno;
}

int set_windows(int fd, const TcpConnection& tcp) {
  const tcp_repair_window window{tcp.window_update, tcp.send_window, tcp.largest_window,
                                 tcp.receive_window, tcp.receive_update};
  if (::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof window) != 0) return errno;
  if (!tcp.timestamps) return 0;
  return ::setsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &tcp.timestamp, sizeof tcp.timestamp) == 0
             ? 0
             : errno;
}

/// To the peer, without a packet. The address may come later.
int join(int fd, const Socket& socket) {
  const int level = socket.family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
  const OtherValue<int> anywhere(fd, level,
                                 level == IPPROTO_IPV6 ? kIpv6Transparent : IP_TRANSPARENT, 1);
  const auto* const name = reinterpret_cast<const sockaddr*>(socket.name.data());
  if (::bind(fd, name, static_cast<socklen_t>(socket.name.size())) != 0) return errno;
  return connect_to_name(fd, socket.peer);
}

/// The first step that fails: what it was for, and an errno.
struct Failed {
  const char* what = nullptr;
  int error = 0;
};

Failed establish(int fd, const Socket& socket) {
  const TcpConnection tcp = socket.tcp.value_or(TcpConnection());
  if (const int error = tcp_begin_repair(fd)) return {"TCP_REPAIR", error};
  if (const int error = set_start(fd, TcpQueue::sent, tcp.send_start)) return {"numbers", error};
  if (const int error = set_start(fd, TcpQueue::received, tcp.receive_start)) {
    return {"numbers", error};
  }
  if (const int error = join(fd, socket)) return {"address", error};
  if (const int error = set_agreement(fd, tcp)) return {"options", error};
  if (const int error = put_into_queue(fd, TcpQueue::received, tcp.received)) {
    return {"queue", error};
  }
  if (const int error = set_windows(fd, tcp)) return {"window", error};
  return {};
}

std::string reason_words(const Failed& failed) {
  const std::string_view what = failed.what;
  switch (failed.error) {
    case EPERM:
    case EACCES:
      return "it takes CAP_NET_ADMIN";
    case EADDRNOTAVAIL:
    case EADDRINUSE:
      return "there is a connection with these addresses already";
    case ENETUNREACH:
    case EHOSTUNREACH:
      return "no route leads to its other end";
    default:
      return fmt::format("its {} can't be set: {}", what, std::strerror(failed.error));
  }
}

int own_reuse(const Socket& socket) {
  const auto reuse = std::ranges::find(socket.options, "SO_REUSEADDR", &image::SocketOption::name);
  return reuse != socket.options.end() && !reuse->value.empty() && reuse->value[0] != std::byte{0}
             ? 1
             : 0;
}

}  // namespace

RemadeConnections::RemadeConnections(const image::Snapshot& snapshot) {
  for (const image::Description& description : snapshot.descriptions) {
    if (!description.socket || !description.socket->tcp) continue;
    const auto& descriptors = snapshot.processes[0].descriptors;
    const auto found =
        std::ranges::find(descriptors, description.id, &image::Descriptor::description);
    connections_.push_back({&*description.socket,
                            found == descriptors.end() ? -1 : found->fd,
                            {},
                            own_reuse(*description.socket)});
  }
}

RemadeConnections::RemadeConnections(const std::vector<Socket>& sockets) {
  for (const Socket& socket : sockets) connections_.push_back({&socket, -1, {}, 0});
}

bool RemadeConnections::silence(Findings& findings) {
  std::vector<TcpTuple> tuples;
  for (const Connection& one : connections_) {
    if (const auto tuple = tcp_tuple(one.socket->name, one.socket->peer)) tuples.push_back(*tuple);
  }
  try {
    silence_.emplace(UniqueFd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)));
    silence_->add(tuples);
    return true;
  } catch (const Error& error) {
    const int number = error.code().value();
    findings.refuse(
        fmt::format("TCP connections whose address moves here can't be kept: {}",
                    number == EPERM ? "it takes CAP_NET_ADMIN, which rforkd lacks" : error.what()),
        "leave --keep-tcp out");
    return false;
  }
}

void RemadeConnections::make_one(Connection& one, Findings& findings) {
  const Socket& socket = *one.socket;
  const std::string words = fmt::format("descriptor {}", one.number);
  one.fd.reset(::socket(socket.family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
  Failed failed{"socket", errno};
  if (one.fd) {
    set_options(one.fd.get(), socket, image::SocketOptionKind::Time::first, words, findings);
    failed = establish(one.fd.get(), socket);
  }
  if (failed.what == nullptr) return;
  one.fd.reset();
  findings.refuse(
      fmt::format("the TCP connection from {} to {} can't be made there: {}",
                  address_words(socket.name), address_words(socket.peer), reason_words(failed)),
      one.number < 0 ? "leave --keep-tcp out" : drop_advice(one.number));
}

void RemadeConnections::make(Findings& findings) {
  if (!any() || !silence(findings)) return;
  for (Connection& one : connections_) make_one(one, findings);
}

UniqueFd RemadeConnections::take(uint64_t cookie) const {
  for (const Connection& one : connections_) {
    if (one.socket->cookie == cookie && one.fd) {
      return UniqueFd(::fcntl(one.fd.get(), F_DUPFD_CLOEXEC, 0));
    }
  }
  return {};
}

void RemadeConnections::queue_sent() {
  for (const Connection& one : connections_) {
    const TcpConnection& tcp = *one.socket->tcp;
    const int error = put_into_queue(one.fd.get(), TcpQueue::sent, tcp.sent);
    int left = 0;
    const bool all = ::ioctl(one.fd.get(), SIOCOUTQNSD, &left) == 0 && left == 0;
    if (error == 0 && all) continue;
    throw Error("TCP_REPAIR_QUEUE", error != 0 ? error : EIO, fmt::format("{}", one.number),
                Failure::destination_refused);
  }
}

void RemadeConnections::release() {
  if (silence_) silence_->lift();
  for (Connection& one : connections_) {
    (void)tcp_choose_queue(one.fd.get(), TcpQueue::none);
    (void)tcp_end_repair(one.fd.get(), one.reuse, true);
    const Bytes& rest = one.socket->tcp->not_sent;
    if (!rest.empty()) {
      const Room room(one.fd.get(), true, rest.size());
      (void)put(one.fd.get(), rest);
    }
    one.fd.reset();
  }
  connections_.clear();
}

}  // namespace rfork::loader
