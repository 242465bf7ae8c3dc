#include "tracer/thread_attributes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include "base/error.h"
#include "base/io.h"
#include "image/privileges.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

bool has_slice(uint32_t policy) {
  return policy == SCHED_OTHER || policy == SCHED_BATCH;
}

/// 0: the kernel tells none.
uint64_t own_slice() {
  static const uint64_t slice = [] {
    image::SchedulingAttributes own{};
    const bool found = ::syscall(SYS_sched_getattr, 0, &own, sizeof own, 0) == 0;
    return found && has_slice(own.policy) ? own.runtime : 0;
  }();
  return slice;
}

image::Scheduling read_scheduling(pid_t pid, pid_t tid) {
  image::SchedulingAttributes found{};
  if (::syscall(SYS_sched_getattr, tid, &found, sizeof found, 0) != 0) {
    if (errno == ESRCH) throw ProcessGone(pid);
    throw_errno("sched_getattr", fmt::format("tid {}", tid));
  }
  image::Scheduling result;
  result.policy = static_cast<int32_t>(found.policy);
  result.flags = found.flags;
  result.priority = found.priority;
  // A slice of its own (Linux 6.12) is another one than this process has, by default.
  if (has_slice(found.policy) && found.runtime != own_slice()) result.runtime_ns = found.runtime;
  constexpr uint32_t kDeadline = 6;  // the others show what means nothing to them
  if (found.policy != kDeadline) return result;
  result.runtime_ns = found.runtime, result.deadline_ns = found.deadline,
  result.period_ns = found.period;
  return result;
}

// What a process of the control group of `pid` may use; empty where that isn't told (cgroups(7),
// version 2).
std::vector<uint32_t> group_cpus(pid_t pid) {
  const auto groups = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/cgroup", pid));
  const size_t found = groups ? groups->find("0::/") : std::string::npos;
  if (found == std::string::npos) return {};
  const std::string path = groups->substr(found + 3, groups->find('\n', found) - found - 3);
  return parse_cpu_list(
      try_read_file_at(AT_FDCWD, fmt::format("/sys/fs/cgroup{}/cpuset.cpus.effective", path))
          .value_or(""));
}

// Read once: the process stands still while its threads are looked at.
const std::vector<uint32_t>& online_cpus() {
  static const std::vector<uint32_t> online =
      parse_cpu_list(try_read_file_at(AT_FDCWD, "/sys/devices/system/cpu/online").value_or(""));
  return online;
}

// Empty: all that there are, so that the thread may use all there, too.
std::vector<uint32_t> read_cpus(pid_t pid, pid_t tid) {
  constexpr size_t kMaxCpus = 8192;  // of the kernel: NR_CPUS
  std::array<uint64_t, kMaxCpus / 64> mask;
  const long bytes = ::syscall(SYS_sched_getaffinity, tid, sizeof mask, mask.data());
  if (bytes < 0 && errno == ESRCH) throw ProcessGone(pid);
  if (bytes < 0) throw_errno("sched_getaffinity", fmt::format("tid {}", tid));
  std::vector<uint32_t> cpus;
  for (uint32_t cpu = 0; cpu < static_cast<uint32_t>(bytes) * 8; ++cpu) {
    if ((mask[cpu / 64] >> (cpu % 64) & 1) != 0) cpus.push_back(cpu);
  }
  if (std::ranges::includes(cpus, online_cpus()) || cpus == group_cpus(pid)) return {};
  return cpus;
}

// Of /proc/PID/status: "thread force mitigated", "conditional disabled", ... (fs/proc/array.c).
int32_t speculation(std::string_view words) {
  if (words == "thread force mitigated" || words == "conditional force disabled")
    return PR_SPEC_FORCE_DISABLE;
  if (words == "thread mitigated" || words == "conditional disabled") return PR_SPEC_DISABLE;
  if (words == "thread vulnerable" || words == "conditional enabled") return PR_SPEC_ENABLE;
  return 0;  // not the thread's own choice
}

// What PR_MCE_KILL has set, from the flags that the kernel shows (include/linux/sched.h).
int32_t memory_failure_mode(pid_t pid, pid_t tid) {
  constexpr unsigned long kOwn = 0x80, kEarly = 0x08000000;  // PF_MCE_PROCESS, PF_MCE_EARLY
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/task/{}/stat", pid, tid));
  if (!text) throw ProcessGone(pid);
  const unsigned long flags = std::stoul(parse_stat_fields(*text).at(9 - 3));
  if ((flags & kOwn) == 0) return 0;
  return 1 + ((flags & kEarly) != 0 ? PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE);
}

}  // namespace

std::vector<uint32_t> parse_cpu_list(std::string_view text) {
  std::vector<uint32_t> cpus;
  constexpr uint32_t kSane = 1u << 20;
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  for (const std::string_view part : split(text, ',')) {
    uint32_t first = 0;
    const char* const end = part.data() + part.size();
    auto parsed = std::from_chars(part.data(), end, first);
    uint32_t last = first;
    if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == '-') {
      parsed = std::from_chars(parsed.ptr + 1, end, last);
    }
    if (parsed.ec != std::errc() || parsed.ptr != end || last < first || last > kSane) {
      throw std::invalid_argument("no list of CPUs: " + std::string(text));
    }
    for (uint32_t cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

void read_attributes(pid_t pid, pid_t tid,
                     const std::map<std::string, std::string, std::less<>>& status,
                     image::Thread& thread) {
  thread.scheduling = read_scheduling(pid, tid);
  thread.nice = ::getpriority(PRIO_PROCESS, static_cast<id_t>(tid));
  thread.cpus = read_cpus(pid, tid);
  const long priority = ::syscall(SYS_ioprio_get, image::kIoWhoProcess, tid);
  if (priority < 0 && errno == ESRCH) throw ProcessGone(pid);
  if (priority > 0 && priority >> image::kIoClassShift != 0)
    thread.io_priority = static_cast<int32_t>(priority);
  const auto value = [&](const char* key) {
    const auto found = status.find(key);
    return found == status.end() ? 0 : speculation(found->second);
  };
  thread.settings.memory_failure = memory_failure_mode(pid, tid);
  thread.settings.store_bypass = value("Speculation_Store_Bypass");
  thread.settings.indirect_branch = value("SpeculationIndirectBranch");
}

void ask_settings(RemoteSyscalls& calls, const ProcessMemory& memory, image::Thread& thread) {
  calls.prepare();
  const auto in_scratch = [&](uint64_t option) {
    return calls.call(SYS_prctl, {option, calls.scratch()}) == 0
               ? memory.read_value<int32_t>(calls.scratch())
               : 0;
  };
  const long slack = calls.call(SYS_prctl, {PR_GET_TIMERSLACK});
  if (slack > 0) thread.settings.timer_slack_ns = static_cast<uint64_t>(slack);
  thread.settings.parent_death_signal = in_scratch(PR_GET_PDEATHSIG);
  const int32_t counter = in_scratch(PR_GET_TSC);
  thread.settings.time_stamp_counter = counter == PR_TSC_ENABLE ? 0 : counter;
}

uint32_t ask_securebits(RemoteSyscalls& calls) {
  calls.prepare();
  const long bits = calls.call(SYS_prctl, {PR_GET_SECUREBITS});
  return bits > 0 ? static_cast<uint32_t>(bits) : 0;
}

}  // namespace rfork::tracer
