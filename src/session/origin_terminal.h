// The terminal at the origin while its program is elsewhere: keys go as they are to the terminal
// that the child has, which makes lines and echo of them. But the keys that signal (ISIG) act here,
// on the whole foreground, as long as they do so there. As it was, whenever it is somebody else's
// turn.
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

  /// Lets its keys pass if the ghost is in the foreground; whether it is ours now.
  bool take();
  bool taken() const { return found_.has_value(); }
  /// Whether somebody else is in the foreground of what was taken: a shell, whose job has ended but
  /// for the ghost.
  bool lost() const;
  /// As its program has left it elsewhere, unless it is lost and others have set its modes since.
  void give_back();
  /// As it was here: what its program made of it is not known to be its last word.
  void give_back_as_found();
  /// What its program has made of the terminal's modes elsewhere.
  void set_modes(const termios2& modes);
  /// struct winsize as it is.
  std::optional<uint64_t> window_size() const;

 private:
  void set_passing();

  UniqueFd fd_;
  pid_t ghost_;
  std::optional<termios2> found_;  ///< while it is ours
  termios2 before_{};              ///< what it is given back as
  termios2 ours_{};                ///< while it is ours
  std::optional<termios2> child_;  ///< modes of the child's, as far as known
};

}  // namespace rfork::session
