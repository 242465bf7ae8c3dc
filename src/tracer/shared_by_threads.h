// What the threads of a process share as a rule, and no other process: an image has it once.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/error.h"

namespace rfork::tracer {

/// Adds a reason for every thread of `pid` with descriptors, a working directory or namespaces of
/// its own (unshare(2), setns(2)).
void find_thread_obstacles(pid_t pid, std::vector<Reason>& obstacles);

/// Adds a reason for what `pid` shares with its parent (clone(2) with CLONE_VM, CLONE_FILES,
/// CLONE_FS).
void find_parent_obstacles(pid_t pid, std::vector<Reason>& obstacles);

}  // namespace rfork::tracer
