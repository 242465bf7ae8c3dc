#include "session/process_group.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "base/io.h"

namespace rfork::session {

namespace {

/// Of /proc/PID/stat.
struct Membership {
  char state = 0;
  int parent = 0, group = 0, session = 0;
  int foreground = 0;  ///< group of the terminal
};

std::optional<Membership> membership(pid_t pid) {
  const auto stat = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/stat", pid));
  const size_t name_end = stat ? stat->rfind(')') : std::string::npos;
  if (name_end == std::string::npos) return std::nullopt;
  Membership of;
  const int read = std::sscanf(stat->c_str() + name_end + 1, " %c %d %d %d %*d %d", &of.state,
                               &of.parent, &of.group, &of.session, &of.foreground);
  if (read != 5) return std::nullopt;
  return of;
}

/// Whether it keeps its group from being orphaned.
bool has_keeper(const Membership& member) {
  const auto parent = membership(member.parent);
  return parent && parent->session == member.session && parent->group != member.group;
}

}  // namespace

bool is_terminal_stop(int signal) {
  return signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

bool in_foreground(pid_t pid) {
  const auto process = membership(pid);
  return process && process->group == process->foreground;
}

bool in_orphaned_group(pid_t pid) {
  const auto process = membership(pid);
  if (!process || has_keeper(*process)) return false;
  for (const int other : try_list_numbers("/proc").value_or(std::vector<int>())) {
    const auto member = membership(other);
    const bool lives = member && member->state != 'Z' && member->state != 'X';
    if (lives && member->group == process->group && has_keeper(*member)) return false;
  }
  return true;
}

}  // namespace rfork::session
