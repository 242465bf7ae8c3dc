// What is on its way between the two ends of a TCP connection on one host: how much it is, and how
// it gets to where it can be read.
//
// Only what has reached the receiver can be looked at (MSG_PEEK). What is still with the sender,
// because the receiver's window is full or small segments are held back, is sent by the kernel as
// soon as there is room. Rejected: TCP_REPAIR, which reads it where it is, but needs
// CAP_NET_ADMIN, and leaves a socket that says nothing more if whoever asked dies.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace rfork {

/// TCP_INFO, as far as it matters here.
struct TcpState {
  uint8_t state = 0;      ///< TCP_ESTABLISHED, ...
  uint64_t sent = 0;      ///< bytes of data that were sent, each counted once
  uint64_t received = 0;  ///< bytes that came in order, read or not; the end counts as one
  uint32_t not_sent = 0;  ///< bytes that the program has written, and the kernel has not sent
  uint32_t waiting = 0;   ///< of a listening socket: connections that nobody has accepted
};

/// nullopt: it is no TCP socket.
std::optional<TcpState> tcp_state(int fd);

/// Bytes that were written and that the other end has not confirmed (SIOCOUTQ); the end counts as
/// one.
uint32_t tcp_unconfirmed(int fd);
/// Bytes that can be read, up to urgent data if there is any (SIOCINQ).
uint32_t tcp_readable(int fd);

/// More room in a receiver for a while. Afterwards SO_RCVBUF is what the program had set; if it has
/// left that to the kernel, it stays larger, as by the kernel's own tuning.
class ReceiverRoom {
 public:
  explicit ReceiverRoom(int fd);
  ~ReceiverRoom();
  ReceiverRoom(const ReceiverRoom&) = delete;
  ReceiverRoom& operator=(const ReceiverRoom&) = delete;
  /// For `bytes` more than can be read, as far as this host allows; the sender is told.
  void widen(uint32_t bytes);

 private:
  void set_size(int size) const;
  void let_kernel_grow(int size) const;

  int fd_;
  int size_ = 0;
  uint32_t lock_ = 0;  ///< SO_BUF_LOCK
  bool widened_ = false;
};

/// Waits until all that `sender` has written is where `receiver` can read it; nobody writes or
/// reads meanwhile. False: it did not get there.
bool deliver_stream(int sender, int receiver, std::chrono::milliseconds patience);

}  // namespace rfork
