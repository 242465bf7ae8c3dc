// What of a process's scheduling, priorities and the like needs a privilege to be set, and what a
// host may set: as abilities, so that a destination is asked before the process is frozen.
//
// "nice:N", "oom_score_adj:N" (the lowest), "realtime:N" (the highest priority), "deadline",
// "io_realtime", "securebits", "wake_alarm".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "image/model.h"

namespace rfork::image {

/// struct sched_attr of sched_setattr(2), its first form.
struct SchedulingAttributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};
static_assert(sizeof(SchedulingAttributes) == 48);

// Of ioprio_set(2): its header isn't for C++.
inline constexpr int kIoWhoProcess = 1, kIoClassShift = 13, kIoClassRealtime = 1;

/// Whether this process has the capability where the initial user namespace is asked for it;
/// numbers as in linux/capability.h.
bool has_global_capability(unsigned capability);

/// Adds what this process may set in a child.
void add_privileges(std::vector<std::string>& abilities);
/// Adds what `process` needs.
void add_privileged_needs(const Process& process, std::vector<std::string>& needs);
/// Whether `need` is one of `abilities`, or less than one of them.
bool fulfils(const std::vector<std::string>& abilities, const std::string& need);
/// Why it can't be set there; nullopt when `need` isn't a privilege.
std::optional<Reason> missing_privilege(const std::string& need);

}  // namespace rfork::image
