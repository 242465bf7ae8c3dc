// The terminal at the origin while its program is elsewhere: raw, so that every key goes to the
// terminal that the child has, which makes lines, echo and signals of them. As it was, whenever it
// is somebody else's turn.
#pragma once

#include <asm/termbits.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "base/unique_fd.h"

namespace rfork::session {

class OriginTerminal {
 public:
  /// `fd` may be closed before this ends: its relay ends with the child, and then the terminal has
  /// still to be given back. `ghost` is whom the terminal knows.
  OriginTerminal(int fd, pid_t ghost);
  /// Gives it back.
  ~OriginTerminal() { give_back(); }
  OriginTerminal(const OriginTerminal&) = delete;
  OriginTerminal& operator=(const OriginTerminal&) = delete;

  /// Makes it raw if the ghost is in the foreground; whether it is ours now.
  bool take();
  void give_back();
  /// What its program has made of the terminal's modes elsewhere: it is given back so.
  void set_modes(const termios2& modes);
  /// struct winsize as it is.
  std::optional<uint64_t> window_size() const;

 private:
  UniqueFd fd_;
  pid_t ghost_;
  std::optional<termios2> before_;  ///< while it is ours
};

}  // namespace rfork::session
