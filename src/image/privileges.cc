#include "image/privileges.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/io.h"

namespace rfork::image {

namespace {

constexpr const char* kDeadline = "deadline";
constexpr const char* kIoRealtime = "io_realtime";
constexpr const char* kSecurebits = "securebits";
constexpr const char* kWakeAlarm = "wake_alarm";
constexpr std::string_view kNice = "nice:", kRealtime = "realtime:", kOom = "oom_score_adj:";
constexpr int kDeadlinePolicy = 6;  // SCHED_DEADLINE, which glibc 2.36 hasn't

/// The number behind `name`, if `ability` is one of that name.
std::optional<int> number_of(std::string_view ability, std::string_view name) {
  if (!ability.starts_with(name)) return std::nullopt;
  const std::string_view digits = ability.substr(name.size());
  int number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

/// A clock that wakes a sleeping host needs a device for it, too.
bool has_wake_alarm() {
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  timer_t timer{};
  if (::timer_create(CLOCK_BOOTTIME_ALARM, &event, &timer) != 0) return false;
  ::timer_delete(timer);
  return true;
}

/// A capability of a user namespace is none for these (kernel/sched/syscalls.c, block/ioprio.c:
/// capable()).
bool in_initial_user_namespace() {
  const auto map = try_read_file_at(AT_FDCWD, "/proc/self/uid_map");
  unsigned long inside = 1, outside = 1, count = 0;
  return map && std::sscanf(map->c_str(), "%lu %lu %lu", &inside, &outside, &count) == 3 &&
         inside == 0 && outside == 0 && count == 4294967295;
}

rlim_t soft_limit(__rlimit_resource resource) {
  rlimit limit{};
  return ::getrlimit(resource, &limit) == 0 ? limit.rlim_cur : 0;
}

int lowest_nice() {
  constexpr rlim_t kMost = 40;  // RLIMIT_NICE counts from 20 down: getrlimit(2)
  const int by_limit = 20 - static_cast<int>(std::min(soft_limit(RLIMIT_NICE), kMost));
  return std::min(by_limit, ::getpriority(PRIO_PROCESS, 0));
}

/// PR_SET_KEEPCAPS needs no privilege.
bool is_privileged(uint32_t securebits) {
  constexpr uint32_t kKeepCaps = 1u << 4;  // SECBIT_KEEP_CAPS
  return (securebits & ~kKeepCaps) != 0;
}

}  // namespace

bool has_global_capability(unsigned capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) < 0) return false;
  return (data[capability / 32].effective >> (capability % 32) & 1) != 0 &&
         in_initial_user_namespace();
}

void add_privileges(std::vector<std::string>& abilities) {
  const bool may_schedule = has_global_capability(CAP_SYS_NICE);
  abilities.push_back(fmt::format("{}{}", kNice, may_schedule ? -20 : lowest_nice()));
  const rlim_t realtime = may_schedule ? 99 : std::min<rlim_t>(soft_limit(RLIMIT_RTPRIO), 99);
  if (realtime > 0) abilities.push_back(fmt::format("{}{}", kRealtime, realtime));
  if (may_schedule) abilities.emplace_back(kDeadline);
  if (may_schedule || has_global_capability(CAP_SYS_ADMIN)) abilities.emplace_back(kIoRealtime);
  if (has_global_capability(CAP_SETPCAP)) abilities.emplace_back(kSecurebits);
  if (has_wake_alarm()) abilities.emplace_back(kWakeAlarm);
  const auto score = try_read_file_at(AT_FDCWD, "/proc/self/oom_score_adj");
  const int own_score = score ? std::atoi(score->c_str()) : 0;
  const bool may_lower = has_global_capability(CAP_SYS_RESOURCE);
  abilities.push_back(fmt::format("{}{}", kOom, may_lower ? -1000 : own_score));
}

void add_privileged_needs(const Process& process, std::vector<std::string>& needs) {
  int nice = 19;
  uint32_t realtime = 0;
  bool deadline = false, io_realtime = false,
       securebits = is_privileged(process.credentials.securebits);
  for (const Thread& thread : process.threads) {
    nice = std::min(nice, thread.nice);
    realtime = std::max(realtime, thread.scheduling.priority);
    deadline |= thread.scheduling.policy == kDeadlinePolicy;
    io_realtime |= thread.io_priority >> kIoClassShift == kIoClassRealtime;
    securebits |= thread.credentials && is_privileged(thread.credentials->securebits);
  }
  // What every program has needs no word.
  if (nice < 0) needs.push_back(fmt::format("{}{}", kNice, nice));
  if (realtime > 0) needs.push_back(fmt::format("{}{}", kRealtime, realtime));
  if (deadline) needs.emplace_back(kDeadline);
  if (io_realtime) needs.emplace_back(kIoRealtime);
  if (securebits) needs.emplace_back(kSecurebits);
  if (process.oom_score_adj < 0) needs.push_back(fmt::format("{}{}", kOom, process.oom_score_adj));
  if (std::ranges::any_of(process.posix_timers, [](const PosixTimer& timer) {
        return timer.clock == CLOCK_REALTIME_ALARM || timer.clock == CLOCK_BOOTTIME_ALARM;
      })) {
    needs.emplace_back(kWakeAlarm);
  }
}

bool fulfils(const std::vector<std::string>& abilities, const std::string& need) {
  return std::ranges::any_of(abilities, [&](const std::string& ability) {
    for (const std::string_view name : {kNice, kOom}) {
      const auto wanted = number_of(need, name), lowest = number_of(ability, name);
      if (wanted && lowest) return *lowest <= *wanted;
    }
    const auto wanted = number_of(need, kRealtime), highest = number_of(ability, kRealtime);
    return wanted && highest ? *highest >= *wanted : ability == need;
  });
}

std::optional<Reason> missing_privilege(const std::string& need) {
  const auto because = [](std::string what, const char* capability) {
    return Reason{fmt::format("the process has {}, which needs {} there", what, capability),
                  "--drop-attributes goes on without, or let root restore it"};
  };
  if (const auto nice = number_of(need, kNice))
    return because(fmt::format("the nice value {}", *nice), "CAP_SYS_NICE or RLIMIT_NICE");
  if (const auto priority = number_of(need, kRealtime)) {
    return because(fmt::format("a thread with the real-time priority {}", *priority),
                   "CAP_SYS_NICE or RLIMIT_RTPRIO");
  }
  if (const auto score = number_of(need, kOom))
    return because(fmt::format("oom_score_adj {}", *score), "CAP_SYS_RESOURCE");
  if (need == kDeadline) return because("a thread under SCHED_DEADLINE", "CAP_SYS_NICE");
  if (need == kIoRealtime)
    return because("a thread with I/O priority IOPRIO_CLASS_RT", "CAP_SYS_NICE");
  if (need == kSecurebits) return because("securebits", "CAP_SETPCAP");
  if (need == kWakeAlarm) {
    return because("a POSIX timer that wakes a sleeping host (CLOCK_REALTIME_ALARM)",
                   "CAP_WAKE_ALARM and a real-time clock");
  }
  return std::nullopt;
}

}  // namespace rfork::image
