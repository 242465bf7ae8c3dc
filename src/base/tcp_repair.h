// TCP_REPAIR: a socket whose kernel state may be read and written, and that says nothing when it is
// closed. Needs CAP_NET_ADMIN over the socket's network namespace. The mode is the socket's, and
// outlives who set it. Source: linux/tcp.h, Documentation/networking.
#pragma once

#include <cstdint>

namespace rfork {

/// Which queue is read and written in repair mode (TCP_REPAIR_QUEUE).
enum class TcpQueue : int { none = 0, received = 1, sent = 2 };

/// SO_REUSEADDR as a program set it: repair mode takes it away. 0 or 1.
int tcp_own_reuse(int fd);
/// 0, or an errno.
int tcp_begin_repair(int fd);
/// Ends it, with SO_REUSEADDR as `reuse` says. `probe`: the other end is sent a segment, which it
/// answers. 0, or an errno.
int tcp_end_repair(int fd, int reuse, bool probe);
/// 0, or an errno.
int tcp_choose_queue(int fd, TcpQueue queue);

/// Repair mode for a moment.
class TcpRepair {
 public:
  explicit TcpRepair(int fd);
  ~TcpRepair();
  TcpRepair(const TcpRepair&) = delete;
  TcpRepair& operator=(const TcpRepair&) = delete;
  /// Why it isn't: an errno.
  int error() const { return error_; }

 private:
  int fd_;
  int reuse_;
  int error_;
};

}  // namespace rfork
