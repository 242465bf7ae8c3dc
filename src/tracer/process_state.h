// What belongs to the process as a whole: identity, credentials, limits, layout, signal actions,
// timers.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "image/model.h"
#include "tracer/process_memory.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

/// Adds a reason for everything in /proc/`pid`/status and beside it that can't be taken along: a
/// seccomp filter, POSIX timers (unless `drop_timers`), shadow stacks.
void find_process_obstacles(pid_t pid, bool drop_timers, std::vector<Reason>& obstacles);

/// Adds a reason that names the children of `pid`, if it has any: it could not wait for them.
void find_children(pid_t pid, std::vector<Reason>& obstacles);

/// Everything that /proc tells: all of image::Process but threads, mappings, descriptors and what
/// needs injected calls.
image::Process read_process(pid_t pid);

/// Interval timers, asked through a thread of the original (a fork has none).
void ask_timers(RemoteSyscalls& calls, const ProcessMemory& memory, image::Process& process);
/// Signal actions, brk and dumpable, asked through the original or its forked copy, whose memory
/// `memory` is.
/// Asks whether mlockall(2) locks what is mapped from now on. For a process that has locked memory:
/// it maps a page, and reads its smaps.
void ask_future_locks(RemoteSyscalls& calls, pid_t pid, image::Process& process);
void ask_process(RemoteSyscalls& calls, const ProcessMemory& memory, const image::Host& host,
                 image::Process& process);

}  // namespace rfork::tracer
