// What the threads of a process share as a rule, and an image has once.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/error.h"

namespace rfork::tracer {

/// Adds a reason for every thread of `pid` with descriptors, a working directory or namespaces of
/// its own (unshare(2), setns(2)).
void find_thread_obstacles(pid_t pid, std::vector<Reason>& obstacles);

}  // namespace rfork::tracer
