// What belongs to the process as a whole: identity, credentials, limits, layout, signal actions,
// timers.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "image/model.h"
#include "tracer/process_memory.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

/// Adds a reason for everything in /proc/`pid`/status and beside it that can't be taken along: a
/// shadow stack.
void find_process_obstacles(pid_t pid, std::vector<Reason>& obstacles);

/// A line where the limit of CPU time counts anew: nobody can give a process the time that it has
/// used.
std::optional<std::string> used_cpu_limit(const image::Process& process);

/// Adds a reason that names the children of `pid`, if it has any: it could not wait for them.
void find_children(pid_t pid, std::vector<Reason>& obstacles);

/// Whether the process or thread of this directory ("/proc/PID/task/TID/") is gone or on its way.
bool is_ending(const std::string& directory);

/// Everything that /proc tells: all of image::Process but threads, mappings, descriptors and what
/// needs injected calls.
image::Process read_process(pid_t pid);

using Status = std::map<std::string, std::string, std::less<>>;
/// Of a /proc/PID/status or that of a thread, without the user's name and securebits.
image::Credentials read_credentials(const Status& status);

/// What of the settings a fork has not.
void ask_own_settings(RemoteSyscalls& calls, const ProcessMemory& memory,
                      image::ProcessSettings& settings);
/// Interval timers, asked through a thread of the original (a fork has none).
void ask_timers(RemoteSyscalls& calls, const ProcessMemory& memory, image::Process& process);
/// Asks whether mlockall(2) locks what is mapped from now on. For a process that has locked memory:
/// it maps a page, and reads its smaps.
void ask_future_locks(RemoteSyscalls& calls, pid_t pid, image::Process& process);
/// Signal actions, brk, dumpable and other settings, asked through the original or its forked copy,
/// whose memory `memory` is.
void ask_process(RemoteSyscalls& calls, const ProcessMemory& memory, const image::Host& host,
                 image::Process& process);

}  // namespace rfork::tracer
