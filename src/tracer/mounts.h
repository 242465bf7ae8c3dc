// The mounts that a process sees.
#pragma once

#include <sys/types.h>

#include <vector>

#include "tracer/proc_text.h"

namespace rfork::tracer {

/// The mounts of /proc/PID/mountinfo (proc(5)); none where it can't be read.
std::vector<Mount> mounts_of(pid_t pid);

}  // namespace rfork::tracer
