#include "tracer/pseudo_terminals.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <span>

#include "base/io.h"
#include "tracer/inventory.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

using image::Description;

namespace {

constexpr unsigned kSlaveMajor = 136;  // UNIX98_PTY_SLAVE_MAJOR

/// /dev/ptmx, wherever it is mounted: Documentation/admin-guide/devices.txt.
bool is_master(const struct stat& status) {
  return S_ISCHR(status.st_mode) && major(status.st_rdev) == 5 && minor(status.st_rdev) == 2;
}

bool is_slave(const struct stat& status) {
  return S_ISCHR(status.st_mode) && major(status.st_rdev) >= kSlaveMajor &&
         major(status.st_rdev) < kSlaveMajor + 8;
}

int ask(int fd, unsigned long request) {
  int value = 0;
  return ::ioctl(fd, request, &value) == 0 ? value : 0;
}

template <typename T>
Bytes ask_bytes(int fd, unsigned long request) {
  T value{};
  if (::ioctl(fd, request, &value) != 0) return {};
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

/// The device number of the process's controlling terminal, until it ends: tty_nr in proc(5).
dev_t terminal_of(pid_t pid) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/stat", pid));
  if (!text) return 0;
  const auto fields = parse_stat_fields(*text);
  constexpr size_t kFirst = 3, kTtyNr = 7;
  const bool ended = fields.empty() || fields[0] == "Z" || fields[0] == "X";
  return fields.size() > kTtyNr - kFirst && !ended
             ? static_cast<dev_t>(std::strtoul(fields[kTtyNr - kFirst].c_str(), nullptr, 10))
             : 0;
}

}  // namespace

void PseudoTerminals::look_at(const std::vector<ChannelEnd>& ends) {
  for (const ChannelEnd& end : ends) {
    if (!is_master(end.status) || (end.flags & O_PATH) != 0) continue;
    const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
    uint32_t number = 0;
    if (!own || ::ioctl(own.get(), TIOCGPTN, &number) != 0) continue;
    terminals_[number] = {end, makedev(kSlaveMajor, number), 0};
  }
  if (terminals_.empty()) return;
  for (auto& [number, terminal] : terminals_) {
    const auto slave = std::ranges::find_if(ends, [&](const ChannelEnd& end) {
      return is_slave(end.status) && end.status.st_rdev == terminal.slave;
    });
    // Without one the slave may never have been opened: then it isn't by us either.
    if (slave != ends.end()) terminal.file_system = file_system_of(terminal);
  }
  leave_out_what_others_have();
}

/// Where its slave is: other mounts of devpts have terminals of the same numbers.
uint64_t PseudoTerminals::file_system_of(const Terminal& terminal) const {
  const ChannelEnd& master = terminal.master;
  const UniqueFd own = duplicate_descriptor(master.pid, master.fd);
  const UniqueFd peer(::ioctl(own.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  struct stat status {};
  if (peer && ::fstat(peer.get(), &status) == 0) return status.st_dev;
  // A locked or exclusive one isn't opened for us: by the name that it has beside its master's.
  std::string name =
      try_read_link(fmt::format("/proc/{}/fd/{}", master.pid, master.fd)).value_or("");
  name.resize(name.rfind('/') + 1);
  if (!name.ends_with("pts/")) name += "pts/";
  name += std::to_string(minor(terminal.slave));
  const bool found = ::stat(fmt::format("/proc/{}/root{}", pid_, name).c_str(), &status) == 0;
  return found && status.st_rdev == terminal.slave ? status.st_dev : 0;
}

/// By a descriptor of either end, or as controlling terminal.
void PseudoTerminals::leave_out_what_others_have() {
  const auto drop = [&](const auto& has) {
    std::erase_if(terminals_, [&](const auto& entry) { return has(entry.second); });
  };
  for (const int pid : try_list_numbers("/proc").value_or(std::vector<int>())) {
    if (terminals_.empty()) return;
    if (same_.contains(pid) || pid == ::getpid()) continue;
    const dev_t controlling = terminal_of(pid);
    drop([&](const Terminal& terminal) { return terminal.slave == controlling; });
    const std::string directory = fmt::format("/proc/{}/fd", pid);
    for (const int fd : try_list_numbers(directory).value_or(std::vector<int>())) {
      const std::string path = fmt::format("{}/{}", directory, fd);
      const auto link = try_read_link(path);
      struct stat status {};
      // Whatever is mounted where: their names end with these.
      if (!link || (!link->ends_with("ptmx") && link->find("pts/") == std::string::npos) ||
          ::stat(path.c_str(), &status) != 0) {
        continue;
      }
      drop([&](const Terminal& terminal) {
        if (is_master(status)) {
          const auto& [own, own_fd] = std::pair(terminal.master.pid, terminal.master.fd);
          return ::syscall(SYS_kcmp, own, pid, KCMP_FILE, own_fd, fd) == 0;
        }
        return is_slave(status) && status.st_rdev == terminal.slave &&
               (terminal.file_system == 0 || status.st_dev == terminal.file_system);
      });
    }
  }
}

const PseudoTerminals::Terminal* PseudoTerminals::find(const ChannelEnd& end) const {
  const auto found = std::ranges::find_if(terminals_, [&](const auto& entry) {
    const Terminal& terminal = entry.second;
    return terminal.master.description == end.description ||
           (is_slave(end.status) && end.status.st_rdev == terminal.slave &&
            end.status.st_dev == terminal.file_system);
  });
  return found == terminals_.end() || (end.flags & O_PATH) != 0 ? nullptr : &found->second;
}

bool PseudoTerminals::has(const ChannelEnd& end) const {
  return find(end) != nullptr;
}

void PseudoTerminals::describe(const ChannelEnd& end, Description& description) const {
  const Terminal& terminal = *find(end);
  const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  description.kind = Description::Kind::pseudo_terminal;
  description.other = terminal.master.description;
  description.mode = end.status.st_mode;
  image::PseudoTerminal& state = description.terminal.emplace();
  state.number = minor(terminal.slave);
  state.master = end.description == terminal.master.description;
  state.exclusive = ask(own.get(), TIOCGEXCL) != 0;
  if (state.master) {
    state.locked = ask(own.get(), TIOCGPTLCK) != 0;
    pollfd one{own.get(), POLLIN, 0};
    description.removed = ::poll(&one, 1, 0) == 1 && (one.revents & POLLHUP) != 0;
    state.packet_mode = ask(own.get(), TIOCGPKT) != 0;
    // Of a master these are the slave's.
    description.terminal_modes = ask_bytes<termios2>(own.get(), TCGETS2);
    description.window_size = ask_bytes<winsize>(own.get(), TIOCGWINSZ);
  } else {
    state.discipline = ask(own.get(), TIOCGETD);
    state.controlling = terminal_of(pid_) == terminal.slave;
  }
}

std::string PseudoTerminals::obstacle(const ChannelEnd& end) const {
  const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  const int queued = ask(own.get(), FIONREAD);
  if (queued <= 0) return {};
  return fmt::format(
      "with {} bytes in it that the process hasn't read yet, which can't be read without taking "
      "them",
      queued);
}

}  // namespace rfork::tracer
