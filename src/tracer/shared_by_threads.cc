#include "tracer/shared_by_threads.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <string>
#include <utility>

#include "base/io.h"
#include "tracer/proc_text.h"
#include "tracer/process_state.h"

namespace rfork::tracer {

namespace {

constexpr std::array kNamespaces{std::pair{"net", "network"}, std::pair{"uts", "UTS"},
                                 std::pair{"ipc", "IPC"}, std::pair{"mnt", "mount"}};

using Links = std::array<std::optional<std::string>, kNamespaces.size()>;

Links namespaces_of(pid_t pid, pid_t tid) {
  Links links;
  for (size_t i = 0; i < kNamespaces.size(); ++i) {
    links[i] = try_read_link(fmt::format("/proc/{}/task/{}/ns/{}", pid, tid, kNamespaces[i].first));
  }
  return links;
}

/// Whether the kernel says so; it may say nothing (no CONFIG_KCMP). A thread that ends has let go
/// of what it shared.
bool differs(pid_t pid, pid_t tid, int what) {
  return ::syscall(SYS_kcmp, pid, tid, what, 0, 0) > 0 &&
         !is_ending(fmt::format("/proc/{}/task/{}/", pid, tid));
}

}  // namespace

void find_thread_obstacles(pid_t pid, std::vector<Reason>& obstacles) {
  const auto tids = try_list_numbers(fmt::format("/proc/{}/task", pid));
  if (!tids || tids->size() < 2) return;
  const Links shared = namespaces_of(pid, pid);
  for (const pid_t tid : *tids) {
    if (tid == pid) continue;
    const auto add = [&](const std::string& what) {
      obstacles.push_back(
          {fmt::format("thread {} of {} has {} of its own, which can't be carried", tid, pid, what),
           {}});
    };
    if (differs(pid, tid, KCMP_FILES)) add("descriptors");
    if (differs(pid, tid, KCMP_FS)) add("a working directory, root and umask");
    const Links own = namespaces_of(pid, tid);
    for (size_t i = 0; i < kNamespaces.size(); ++i) {
      if (own[i] && shared[i] && own[i] != shared[i]) {
        add(fmt::format("a {} namespace", kNamespaces[i].second));
      }
    }
  }
}

void find_parent_obstacles(pid_t pid, std::vector<Reason>& obstacles) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/status", pid));
  if (!text) return;
  const auto status = parse_status(*text);
  const auto found = status.find("PPid");
  const pid_t parent = found == status.end() ? 0 : std::stoi(found->second);
  if (parent == 0) return;
  constexpr std::array kShared{std::pair{KCMP_VM, "memory"}, std::pair{KCMP_FILES, "descriptors"},
                               std::pair{KCMP_FS, "working directory, root and umask"}};
  for (const auto& [what, words] : kShared) {
    if (::syscall(SYS_kcmp, pid, parent, what, 0, 0) != 0) continue;
    obstacles.push_back(
        {fmt::format("process {} shares its {} with process {}, which doesn't come along", pid,
                     words, parent),
         "--drop-attributes goes on with its own"});
  }
}

}  // namespace rfork::tracer
