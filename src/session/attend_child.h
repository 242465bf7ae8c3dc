// What a worker does that stays with its child: carries its bytes, gives it the signals that its
// ghost got, tells when it stops and ends.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "session/open_ends.h"
#include "session/relay_ends.h"
#include "session/worker.h"

namespace rfork::session {

struct AttendedChild {
  std::string id;
  std::string move_id;
  std::chrono::seconds linger{};  ///< how long it waits for its ghost's new connection
  pid_t pid = 0;
  pid_t wait_pid = 0;  ///< the child, or the init of its pid namespace
  int end_pipe = -1;   ///< where that init tells what becomes of the child; borrowed
  UniqueFd pidfd;      ///< of the child
  OpenEnds sockets;    ///< that the child was given, by stream
};

/// Returns when the child has ended and its ghost has all that it said, or when the connection has
/// been lost for longer than `linger`: then the child has got a SIGHUP, as from a terminal that is
/// gone.
void attend_child(WorkerContext& worker, const AttendedChild& child, std::vector<RelayEnd> ends);

}  // namespace rfork::session
