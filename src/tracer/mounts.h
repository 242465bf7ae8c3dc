// The mounts that a process sees.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace rfork::tracer {

struct Mount {
  uint64_t id = 0;
  std::string point;
  uint64_t device = 0;
  bool is_proc = false;
};

/// The mounts of /proc/PID/mountinfo (proc(5)).
std::vector<Mount> mounts_of(pid_t pid);

}  // namespace rfork::tracer
