#include "loader/pseudo_terminals.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/io.h"
#include "loader/kernel_objects.h"

namespace rfork::loader {

using image::Description;

namespace {

constexpr unsigned long kSetModes = _IOW('T', 0x2b, char[44]);  // TCSETS2, struct termios2
constexpr size_t kModesSize = 44;

std::string words_of(const Description& description) {
  return fmt::format("the pseudo-terminal that was /dev/pts/{}", description.terminal->number);
}

}  // namespace

PseudoTerminals::Made* PseudoTerminals::make(uint32_t id) {
  if (const auto found = made_.find(id); found != made_.end()) return &found->second;
  const Description* const master = image::find_id(snapshot_.descriptions, id);
  if (master == nullptr || !master->terminal) return nullptr;
  Made& made = made_[id];
  made.master = try_open("/dev/ptmx", O_RDWR | O_NOCTTY);
  const int unlocked = 0;
  if (!made.master || ::ioctl(made.master.get(), TIOCSPTLCK, &unlocked) != 0) {
    findings_.refuse(fmt::format("{} can't be made here: /dev/ptmx: {}", words_of(*master),
                                 std::strerror(errno)),
                     "is devpts mounted on /dev/pts?");
    made.master.reset();
    return &made;
  }
  const int fd = made.master.get();
  if (master->window_size.size() == sizeof(winsize)) {
    (void)::ioctl(fd, TIOCSWINSZ, master->window_size.data());
  }
  uint32_t number = 0;
  if (::ioctl(fd, TIOCGPTN, &number) == 0 && number != master->terminal->number) {
    renumbered_ += fmt::format("{}/dev/pts/{} is {}", renumbered_.empty() ? "" : ", ",
                               master->terminal->number, number);
  }
  return &made;
}

UniqueFd PseudoTerminals::open_slave(Made& made, const Description& description) {
  // O_CLOEXEC would stay among the flags of the open file, and be shown for all its descriptors.
  UniqueFd fd(::ioctl(made.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY));
  if (!fd) {
    findings_.refuse(
        fmt::format("{} can't be opened here: {}", words_of(description), std::strerror(errno)));
    return fd;
  }
  const int access = description.flags & O_ACCMODE;
  if (access != O_RDWR) {
    UniqueFd narrow = try_open(fmt::format("/proc/self/fd/{}", fd.get()), access | O_NOCTTY);
    if (narrow) fd = std::move(narrow);
  }
  (void)::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  const int discipline = description.terminal->discipline;
  if (discipline != 0 && ::ioctl(fd.get(), TIOCSETD, &discipline) != 0) {
    findings_.refuse(fmt::format("{} can't have the line discipline {} here: {}",
                                 words_of(description), discipline, std::strerror(errno)));
  }
  (void)::fchmod(fd.get(), description.mode & 07777);
  return fd;
}

UniqueFd PseudoTerminals::open(const Description& description) {
  if (!description.terminal) return {};
  Made* const made = make(description.other);
  if (made == nullptr || !made->master) return {};
  UniqueFd fd;
  if (description.terminal->master) {
    fd.reset(::fcntl(made->master.get(), F_DUPFD_CLOEXEC, 0));
  } else {
    UniqueFd& slave = made->slaves[description.id];
    if (!slave) slave = open_slave(*made, description);
    fd.reset(slave ? ::fcntl(slave.get(), F_DUPFD_CLOEXEC, 0) : -1);
  }
  if (fd) set_status_flags(fd.get(), description.flags);
  return fd;
}

void PseudoTerminals::set_state(Made& made, const Description& master) {
  const int fd = made.master.get();
  // After the last slave: opening the first one gives the terminal its modes.
  if (master.terminal_modes.size() == kModesSize &&
      ::ioctl(fd, kSetModes, master.terminal_modes.data()) != 0) {
    findings_.refuse(fmt::format("the modes of {} can't be set here: {}", words_of(master),
                                 std::strerror(errno)));
  }
  // Who reads the master is told that nobody has the slave any more.
  if (master.removed && made.slaves.empty()) {
    UniqueFd(::ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  }
  const int on = 1;
  if (master.terminal->packet_mode) (void)::ioctl(fd, TIOCPKT, &on);
  if (master.terminal->locked) (void)::ioctl(fd, TIOCSPTLCK, &on);
  if (master.terminal->exclusive) (void)::ioctl(fd, TIOCEXCL);
}

void PseudoTerminals::complete(bool foreground) {
  if (!renumbered_.empty()) {
    findings_.warn("pseudo-terminals have other numbers here: " + renumbered_);
  }
  for (auto& [id, made] : made_) {
    if (!made.master) continue;
    set_state(made, *image::find_id(snapshot_.descriptions, id));
    for (const auto& [slave_id, slave] : made.slaves) {
      const Description& description = *image::find_id(snapshot_.descriptions, slave_id);
      if (description.terminal->exclusive) (void)::ioctl(slave.get(), TIOCEXCL);
      if (!description.terminal->controlling || !foreground) continue;
      findings_.warn(
          fmt::format("{} is not the process's controlling terminal: it stays in the "
                      "session of who runs it here",
                      words_of(description)));
    }
  }
}

void PseudoTerminals::add_controlling(PlanWriter& plan, const image::Process& process) const {
  for (const image::Descriptor& descriptor : process.descriptors) {
    const Description* const one = image::find_id(snapshot_.descriptions, descriptor.description);
    if (one == nullptr || !one->terminal || !one->terminal->controlling) continue;
    plan.try_call(SYS_ioctl, {static_cast<uint64_t>(descriptor.fd), TIOCSCTTY, 0},
                  "take the terminal");
    return;
  }
}

}  // namespace rfork::loader
