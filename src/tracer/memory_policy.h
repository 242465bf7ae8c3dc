// NUMA memory policies. The process itself tells them, by injected calls; of many mappings
// /proc/PID/numa_maps tells which may have one.
#pragma once

#include <vector>

#include "image/model.h"
#include "tracer/proc_text.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

/// Of the calling thread. Default where the kernel has no NUMA, or forbids to ask.
image::MemoryPolicy ask_thread_policy(RemoteSyscalls& calls, const ProcessMemory& memory);
/// Those of its own that some of `ranges` have: mappings as /proc/PID/maps has them.
std::vector<image::RangePolicy> ask_range_policies(RemoteSyscalls& calls,
                                                   const ProcessMemory& memory,
                                                   const std::vector<Range>& ranges);

}  // namespace rfork::tracer
