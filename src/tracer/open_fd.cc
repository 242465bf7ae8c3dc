#include "tracer/open_fd.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/io.h"
#include "tracer/inventory.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

std::vector<int> list_fds(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/fd", pid);
  auto fds = try_list_numbers(path);
  if (!fds) throw_errno("open", path);
  return *std::move(fds);
}

bool is_terminal(const struct stat& status) {
  if (!S_ISCHR(status.st_mode)) return false;
  const unsigned number = major(status.st_rdev);
  return number == 4 || number == 5 || (number >= 136 && number <= 143) || number == 204;
}

namespace {

// /dev/tty is the controlling terminal, and /dev/console one of several.
dev_t terminal_behind(pid_t pid, int fd, const struct stat& status) {
  constexpr unsigned long kGetDevice = _IOR('T', 0x32, unsigned);  // TIOCGDEV, tty_ioctl(2)
  if (!is_terminal(status)) return 0;
  if (major(status.st_rdev) != 5) return status.st_rdev;
  unsigned device = 0;
  const UniqueFd own = duplicate_descriptor(pid, fd);
  if (minor(status.st_rdev) == 2 || ::ioctl(own.get(), kGetDevice, &device) != 0) return 0;
  return makedev((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
}

}  // namespace

bool is_path_too_long(const std::string& link) {
  char byte;
  return ::readlink(link.c_str(), &byte, sizeof byte) < 0 && errno == ENAMETOOLONG;
}

std::optional<OpenFd> look_at_fd(pid_t pid, int fd) {
  OpenFd open;
  open.pid = pid;
  open.fd = fd;
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, fd);
  const auto link = try_read_link(path);
  const auto info = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/fdinfo/{}", pid, fd));
  if (!link || !info || ::stat(path.c_str(), &open.status) != 0)
    return std::nullopt;  // closed meanwhile
  open.path = *link;
  open.terminal = terminal_behind(pid, fd, open.status);
  constexpr std::string_view kDeleted = " (deleted)";
  // A file with other names left may be called so itself.
  if (open.path.ends_with(kDeleted) &&
      (open.status.st_nlink == 0 || !open_in_process(pid, open.path, O_PATH | O_NOFOLLOW))) {
    open.path.resize(open.path.size() - kDeleted.size());
  }
  open.offset = std::strtoll(value_of(*info, "pos").value_or("0").c_str(), nullptr, 10);
  const auto flags = std::strtol(value_of(*info, "flags").value_or("0").c_str(), nullptr, 8);
  open.locks = parse_locks(*info);
  open.info = *info;
  open.close_on_exec = (flags & O_CLOEXEC) != 0;
  open.flags = static_cast<int32_t>(flags & ~O_CLOEXEC);
  return open;
}

namespace {

/// Whether description `a` comes before `b`, or is it. The order is the kernel's, and the same for
/// all processes.
struct Order {
  bool before = false, same = false;
};
Order compare(pid_t pid_a, int a, pid_t pid_b, int b) {
  const long order = ::syscall(SYS_kcmp, pid_a, pid_b, KCMP_FILE, a, b);
  if (order < 0) throw_errno("kcmp", fmt::format("descriptors {} and {} of {}", a, b, pid_a));
  return {order == 1, order == 0};
}

}  // namespace

uint32_t DescriptionIndex::find(const OpenFd& open) const {
  const auto file = by_file_.find({open.status.st_dev, open.status.st_ino, open.flags});
  if (file == by_file_.end()) return 0;
  bool same = false;
  const auto at = std::ranges::partition_point(file->second, [&](const Known& known) {
    const Order order = compare(known.pid, known.fd, open.pid, open.fd);
    same = same || order.same;
    return order.before;
  });
  return same ? at->number : 0;
}

void DescriptionIndex::add(const OpenFd& open, uint32_t number) {
  std::vector<Known>& known = by_file_[{open.status.st_dev, open.status.st_ino, open.flags}];
  const auto at = std::ranges::partition_point(
      known, [&](const Known& one) { return compare(one.pid, one.fd, open.pid, open.fd).before; });
  known.insert(at, {open.pid, open.fd, number});
}

SpecialFd special(const OpenFd& open) {
  return {open.fd, open.path, open.status, open.flags, open.info};
}

}  // namespace rfork::tracer
