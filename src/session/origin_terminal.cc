#include "session/origin_terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cstring>

#include "base/error.h"
#include "session/process_group.h"

namespace rfork::session {

namespace {

/// Whatever `value` has of `mask` in the place of what `flags` has.
void put(tcflag_t& flags, tcflag_t mask, tcflag_t value) {
  flags = (flags & ~mask) | (value & mask);
}

/// The modes of a terminal whose lines and echo another one makes, with the modes `child`. The keys
/// that signal stay the kernel's, which knows the whole foreground.
termios2 passing(termios2 modes, const termios2& child) {
  // As cfmakeraw(3).
  put(modes.c_iflag, IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON, 0);
  put(modes.c_oflag, OPOST, 0);
  put(modes.c_lflag, ECHO | ECHONL | ICANON | IEXTEN, 0);
  put(modes.c_cflag, CSIZE | PARENB, CS8);
  modes.c_cc[VMIN] = 1;
  modes.c_cc[VTIME] = 0;
  put(modes.c_lflag, ISIG | NOFLSH, child.c_lflag);
  for (const int key : {VINTR, VQUIT, VSUSP}) modes.c_cc[key] = child.c_cc[key];
  return modes;
}

}  // namespace

OriginTerminal::OriginTerminal(int fd, pid_t ghost)
    : fd_(::fcntl(fd, F_DUPFD_CLOEXEC, 0)), ghost_(ghost) {
  if (!fd_) throw_errno("fcntl(F_DUPFD_CLOEXEC)");
}

bool OriginTerminal::take() {
  if (found_) return true;
  termios2 modes{};
  if (!in_foreground(ghost_) || ::ioctl(fd_.get(), TCGETS2, &modes) != 0) return false;
  found_ = before_ = modes;
  if (!child_) child_ = modes;
  set_passing();
  return true;
}

void OriginTerminal::set_passing() {
  ours_ = passing(*found_, *child_);
  ::ioctl(fd_.get(), TCSETS2, &ours_);
  ::ioctl(fd_.get(), TCGETS2, &ours_);  // as the driver has taken them
}

bool OriginTerminal::lost() const {
  return found_ && !in_foreground(ghost_);
}

void OriginTerminal::give_back() {
  if (!found_) return;
  termios2 modes{};
  const bool others = lost() && ::ioctl(fd_.get(), TCGETS2, &modes) == 0 &&
                      std::memcmp(&modes, &ours_, sizeof modes) != 0;
  if (!others) ::ioctl(fd_.get(), TCSETSW2, &before_);
  found_.reset();
}

void OriginTerminal::give_back_as_found() {
  if (found_) before_ = *found_;
  give_back();
}

void OriginTerminal::set_modes(const termios2& modes) {
  child_ = modes;
  if (!found_) return;
  before_ = modes;
  set_passing();
}

std::optional<uint64_t> OriginTerminal::window_size() const {
  winsize size{};
  static_assert(sizeof size == sizeof(uint64_t));
  if (::ioctl(fd_.get(), TIOCGWINSZ, &size) != 0) return std::nullopt;
  uint64_t packed;
  std::memcpy(&packed, &size, sizeof packed);
  return packed;
}

}  // namespace rfork::session
