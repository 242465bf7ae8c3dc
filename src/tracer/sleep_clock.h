// How long threads have slept in the system calls they are in. The kernel says it nowhere; the
// scheduler notes when a thread ran last, by the clock of the processor it ran on, and those clocks
// differ.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <vector>

namespace rfork::tracer {

struct Sleep {
  int64_t slept_ns = 0;   ///< when it was measured; never more than it was
  uint64_t switches = 0;  ///< of the thread, up to then
};

/// Measures those of `tids` that sleep in a system call with a time-out, while the process runs on.
/// Threads that can't be measured are left out (no CONFIG_SCHED_DEBUG, a processor that this thread
/// may not go to).
///
/// A processor's clock is compared with CLOCK_MONOTONIC by going there, after the thread's note was
/// read: what the scheduler leaves out of that clock (interrupts, time stolen by a hypervisor) then
/// only makes the sleep seem shorter.
std::map<pid_t, Sleep> measure_sleeps(pid_t pid, const std::vector<pid_t>& tids);

/// Whether a thread that is stopped now has slept on from the measurement to the stop.
bool slept_until_stopped(pid_t pid, pid_t tid, const Sleep& sleep);

}  // namespace rfork::tracer
