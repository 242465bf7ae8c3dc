// What acts for a ghost at the origin: gives its child the signals that it gets, carries the bytes
// of what the child inherited, and ends it as the child ends.
#pragma once

#include <string>
#include <vector>

#include "net/link.h"
#include "session/destination.h"
#include "session/relay_ends.h"
#include "tracer/carried_signals.h"

namespace rfork::session {

struct AttendedGhost {
  pid_t pid = 0;
  std::string there;  ///< the destination, for messages
  int messages = -1;  ///< where a last word goes; borrowed
  // For when the connection is lost.
  Endpoint endpoint;
  std::string move_id;
  std::chrono::seconds linger{};
  tracer::CarriedSignals carried{};  ///< not passed on: the child has them
};

/// Forks a process that attends to the ghost until its child has ended, and returns when it does.
/// The ghost waits in pause(2) with all signals blocked. Throws Error or Refusal, and the ghost has
/// been ended then.
void start_attending(net::Link& link, const AttendedGhost& ghost, std::vector<RelayEnd> ends);

}  // namespace rfork::session
