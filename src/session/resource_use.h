// What a process uses of its host.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace rfork::session {

struct ResourceUse {
  bool known = false;              ///< else all is 0
  int64_t cpu_ns = 0;              ///< user and system, of all threads, those that ended too
  int64_t resident_bytes = 0;      ///< now
  int64_t max_resident_bytes = 0;  ///< once ended
  int32_t threads = 0;             ///< now
};

/// A process at this moment.
struct ProcessLook {
  char state = '?';  ///< as in /proc/PID/stat
  ResourceUse use;
};

/// From the text of /proc/PID/stat; see proc_pid_stat(5). nullopt when it is none.
std::optional<ProcessLook> parse_stat(std::string_view text);
/// One small file is read. nullopt when there is no such process.
std::optional<ProcessLook> look_at(pid_t pid);
/// What wait4(2) tells of a process that has ended.
ResourceUse final_use(const rusage& usage);

}  // namespace rfork::session
