// Where the next MSG_PEEK of a socket begins.
#pragma once

#include <sys/socket.h>

#include <optional>

#include "base/socket_option.h"

namespace rfork::tracer {

/// SO_PEEK_OFF of a socket, as it was again when this ends.
class PeekOffset {
 public:
  explicit PeekOffset(int fd) : fd_(fd), before_(socket_option<int>(fd, SOL_SOCKET, SO_PEEK_OFF)) {}
  /// The next peeks begin at the start, wherever the program's own have got to.
  static PeekOffset none(int fd) { return {fd, -1}; }
  ~PeekOffset() {
    if (before_) set(*before_);
  }
  PeekOffset(const PeekOffset&) = delete;
  PeekOffset& operator=(const PeekOffset&) = delete;
  bool set(int offset) const {
    return before_ && ::setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0;
  }

 private:
  PeekOffset(int fd, int offset) : PeekOffset(fd) { set(offset); }

  int fd_;
  std::optional<int> before_;
};

}  // namespace rfork::tracer
