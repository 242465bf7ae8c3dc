// Which of the descriptions that were given away are still open somewhere: a socket's other end
// looks the same after shutdown(2) as after the last close(2).
#pragma once

#include <cstdint>

#include "base/unique_fd.h"

namespace rfork::session {

/// An epoll(7) instance keeps no description open, and forgets one with its last descriptor;
/// /proc/self/fdinfo tells what it has.
class OpenEnds {
 public:
  /// Throws Error.
  OpenEnds();
  /// `fd`, borrowed and closed by its owner later, is called `id`. Throws Error.
  void watch(uint32_t id, int fd);
  /// Whether some process has it open. True when that can't be known.
  bool has(uint32_t id) const;

 private:
  UniqueFd epoll_;
};

}  // namespace rfork::session
