// How a thread is scheduled, and what it has set with prctl(2).
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "image/model.h"
#include "tracer/process_memory.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

/// Policy, priorities, CPUs, speculation: what anybody may ask of the running or stopped thread
/// `tid` of `pid`. `status` is its /proc/PID/task/TID/status. Throws ProcessGone when it has ended.
void read_attributes(pid_t pid, pid_t tid,
                     const std::map<std::string, std::string, std::less<>>& status,
                     image::Thread& thread);
/// What only the thread itself is told, by a few injected calls.
void ask_settings(RemoteSyscalls& calls, const ProcessMemory& memory, image::Thread& thread);
/// Securebits of the thread, by an injected call.
uint32_t ask_securebits(RemoteSyscalls& calls);

/// The CPUs of a list like "0-3,8", as /sys shows them.
std::vector<uint32_t> parse_cpu_list(std::string_view text);

}  // namespace rfork::tracer
