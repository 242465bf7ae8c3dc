#include "base/tcp_stream.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <thread>

#include "base/socket_option.h"
#include "base/unique_fd.h"

namespace rfork {

namespace {

constexpr int kBufLock = 72;            // SO_BUF_LOCK
constexpr uint32_t kReceiveLocked = 2;  // SOCK_RCVBUF_LOCK
constexpr uint32_t kLargestRoom = 1u << 29;
constexpr int kEstablished = 1, kCloseWait = 8;  // include/net/tcp_states.h

template <typename T>
bool set(int fd, int level, int option, T value) {
  return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
}

uint32_t ask_queue(int fd, unsigned long request) {
  int size = 0;
  return ::ioctl(fd, request, &size) == 0 && size > 0 ? static_cast<uint32_t>(size) : 0;
}

/// Sends what waits for a full segment or for TCP_CORK. The option is as it was afterwards.
class Push {
 public:
  explicit Push(int fd) : fd_(fd), before_(socket_option<int>(fd, IPPROTO_TCP, TCP_NODELAY)) {
    set(fd_, IPPROTO_TCP, TCP_NODELAY, 1);
  }
  ~Push() {
    if (before_ == 0) set(fd_, IPPROTO_TCP, TCP_NODELAY, 0);
  }
  Push(const Push&) = delete;
  Push& operator=(const Push&) = delete;

 private:
  int fd_;
  std::optional<int> before_;
};

/// The confirmation of what has arrived may take 40 ms; counting doesn't.
bool has_arrived(int sender, int receiver) {
  if (tcp_unconfirmed(sender) == 0) return true;
  const auto from = tcp_state(sender), to = tcp_state(receiver);
  if (!from || !to || from->not_sent != 0) return false;
  const bool ended = from->state != kEstablished && from->state != kCloseWait;
  return to->received == from->sent + (ended ? 1 : 0);
}

}  // namespace

std::optional<TcpState> tcp_state(int fd) {
  // The kernel's tcp_info, which libc's <netinet/tcp.h> has another, shorter one of: no template
  // may be made of both.
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return std::nullopt;
  TcpState state;
  state.state = info.tcpi_state;
  state.sent = info.tcpi_bytes_sent - info.tcpi_bytes_retrans;
  state.received = info.tcpi_bytes_received;
  state.not_sent = info.tcpi_notsent_bytes;
  state.waiting = info.tcpi_unacked;
  return state;
}

uint32_t tcp_unconfirmed(int fd) {
  return ask_queue(fd, SIOCOUTQ);
}

uint32_t tcp_readable(int fd) {
  return ask_queue(fd, SIOCINQ);
}

ReceiverRoom::ReceiverRoom(int fd)
    : fd_(fd),
      size_(socket_option<int>(fd, SOL_SOCKET, SO_RCVBUF).value_or(0)),
      lock_(socket_option<uint32_t>(fd, SOL_SOCKET, kBufLock).value_or(kReceiveLocked)) {}

ReceiverRoom::~ReceiverRoom() {
  if (!widened_) return;
  if ((lock_ & kReceiveLocked) != 0) set_size(size_);
  set(fd_, SOL_SOCKET, kBufLock, lock_);
}

/// The kernel doubles what is set, and takes no more than the host allows but from who
/// administrates networks.
void ReceiverRoom::set_size(int size) const {
  if (set(fd_, SOL_SOCKET, SO_RCVBUFFORCE, size / 2)) return;
  const int now = socket_option<int>(fd_, SOL_SOCKET, SO_RCVBUF).value_or(0);
  const UniqueFd trial(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  set(trial.get(), SOL_SOCKET, SO_RCVBUF, size / 2);
  const int allowed = socket_option<int>(trial.get(), SOL_SOCKET, SO_RCVBUF).value_or(0);
  if (allowed > now || size < now) set(fd_, SOL_SOCKET, SO_RCVBUF, size / 2);
}

/// Whoever waits for so many bytes at once gets room for them from the kernel's own tuning.
void ReceiverRoom::let_kernel_grow(int size) const {
  const auto before = socket_option<int>(fd_, SOL_SOCKET, SO_RCVLOWAT);
  if (!before) return;
  set(fd_, SOL_SOCKET, SO_RCVLOWAT, size);
  set(fd_, SOL_SOCKET, SO_RCVLOWAT, *before);
}

void ReceiverRoom::widen(uint32_t bytes) {
  // A segment takes more memory than its bytes.
  const uint64_t wanted = (uint64_t{tcp_readable(fd_)} + bytes) * 4 + (1u << 16);
  const int size = static_cast<int>(std::min<uint64_t>(wanted, kLargestRoom));
  const auto now = [&] { return socket_option<int>(fd_, SOL_SOCKET, SO_RCVBUF).value_or(0); };
  if (size > now() && !widened_ && (lock_ & kReceiveLocked) == 0) let_kernel_grow(size / 2);
  if (size > now()) {
    set_size(size);
    widened_ = true;
  }
  char byte;
  // Who reads looks whether there is a larger window to tell of.
  (void)!::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

bool deliver_stream(int sender, int receiver, std::chrono::milliseconds patience) {
  if (has_arrived(sender, receiver)) return true;
  constexpr auto kPause = std::chrono::microseconds(200);
  const auto until = std::chrono::steady_clock::now() + patience;
  const Push push(sender);
  ReceiverRoom room(receiver);
  while (!has_arrived(sender, receiver)) {
    if (std::chrono::steady_clock::now() > until) return false;
    if (const auto state = tcp_state(sender); state && state->not_sent > 0) {
      room.widen(tcp_unconfirmed(sender));
    }
    std::this_thread::sleep_for(kPause);
  }
  return true;
}

}  // namespace rfork
