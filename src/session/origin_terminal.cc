#include "session/origin_terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cstring>

#include "base/error.h"
#include "session/process_group.h"

namespace rfork::session {

OriginTerminal::OriginTerminal(int fd, pid_t ghost)
    : fd_(::fcntl(fd, F_DUPFD_CLOEXEC, 0)), ghost_(ghost) {
  if (!fd_) throw_errno("fcntl(F_DUPFD_CLOEXEC)");
}

bool OriginTerminal::take() {
  if (before_) return true;
  termios2 modes{};
  if (!in_foreground(ghost_) || ::ioctl(fd_.get(), TCGETS2, &modes) != 0) return false;
  before_ = modes;
  // As cfmakeraw(3).
  modes.c_iflag &=
      ~static_cast<tcflag_t>(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  modes.c_oflag &= ~static_cast<tcflag_t>(OPOST);
  modes.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
  modes.c_cflag &= ~static_cast<tcflag_t>(CSIZE | PARENB);
  modes.c_cflag |= CS8;
  modes.c_cc[VMIN] = 1;
  modes.c_cc[VTIME] = 0;
  ::ioctl(fd_.get(), TCSETS2, &modes);
  return true;
}

void OriginTerminal::give_back() {
  if (!before_) return;
  ::ioctl(fd_.get(), TCSETSW2, &*before_);
  before_.reset();
}

void OriginTerminal::set_modes(const termios2& modes) {
  if (before_) before_ = modes;
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
