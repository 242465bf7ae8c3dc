// Timers of timer_create(2): /proc/PID/timers tells what they are (since Linux 3.10, with
// CONFIG_CHECKPOINT_RESTORE), their own thread group how long they still run. A fork has none, so
// the original is asked.
#pragma once

#include <sys/types.h>

#include <string_view>
#include <vector>

#include "base/error.h"
#include "image/model.h"
#include "tracer/process_memory.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

/// The timers of a /proc/PID/timers, by id, without what must be asked for. Their `thread` is as
/// whoever mounted that /proc numbers it, and their `clock` may name a process or thread. Throws
/// std::invalid_argument when the text has another form.
std::vector<image::PosixTimer> parse_timers(std::string_view text);
/// Of the running or stopped `pid`; empty where the kernel doesn't tell.
std::vector<image::PosixTimer> list_timers(pid_t pid);

/// A process or thread that a CPU clock counts for, as clock_getcpuclockid(3) makes it of an id.
struct ClockOwner {
  int32_t id = 0;  ///< 0: the process, or the thread that made the timer
  bool thread = false;
};
/// Of a negative clock id.
ClockOwner clock_owner(int32_t clock);
/// The same clock of "this" process or thread.
int32_t own_clock(int32_t clock);

/// Adds a reason for each timer of `timers` that runs on another process's clock. `tids` are those
/// of the process as it sees them.
void find_timer_obstacles(const std::vector<image::PosixTimer>& timers,
                          const std::vector<int32_t>& tids, std::vector<Reason>& obstacles);

/// Completes `timer` (time left, interval, overruns) through a stopped thread of its process.
void ask_timer(RemoteSyscalls& calls, const ProcessMemory& memory, image::PosixTimer& timer);
/// Whether the armed `timer` counts the CPU time of the thread that `calls` are made in: only then
/// does it run while that thread makes calls.
bool counts_for(RemoteSyscalls& calls, const ProcessMemory& memory, const image::PosixTimer& timer);

}  // namespace rfork::tracer
