// What a daemon tells about a child of its own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "loader/restore.h"
#include "session/resource_use.h"

namespace rfork::session {

enum class ChildState : uint8_t {
  receiving,  ///< its image is on the way
  ready,      ///< stands before its first instruction
  granted,    ///< is being let go
  running,
  ended,
};

/// "receiving", "ready", ...
std::string_view name_of(ChildState state);

struct ChildInfo {
  std::string id;       ///< what rforkctl calls it: a small number
  std::string move_id;  ///< 32 hexadecimal digits
  ChildState state = ChildState::receiving;
  bool stopped = false;  ///< running, but stopped by a signal
  pid_t pid = 0;         ///< as this host's processes see it; 0 before ready
  pid_t inner_pid = 0;   ///< as the child sees itself
  std::string name;      ///< comm
  std::string user;      ///< that it runs as here
  std::string origin;    ///< name of the host that it comes from
  pid_t origin_pid = 0;
  bool moved = false;
  int64_t since_ns = 0;  ///< CLOCK_REALTIME when it was announced, later when it was let go
  int64_t ended_ns = 0;  ///< CLOCK_REALTIME
  loader::ChildEnd end;  ///< once ended
  ResourceUse use;       ///< when asked; once ended, in all
};

/// "exit status 3", "signal 9 (Killed)", "signal 11 (Segmentation fault), core dumped".
std::string describe(const loader::ChildEnd& end);

/// What wait(1) would give: the exit status, or 128 + the signal.
int exit_code(const loader::ChildEnd& end);

}  // namespace rfork::session
