// SysV semaphores and message queues that a process uses. Ids are all that it has of them, so the
// kernel knows only who was the last.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/error.h"

namespace rfork::tracer {

/// Adds a reason for each set of semaphores and each queue that `pid` was the last to use.
void find_sysv_obstacles(pid_t pid, std::vector<Reason>& obstacles);

}  // namespace rfork::tracer
