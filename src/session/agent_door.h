// How a ghost's new connection finds the agent of its child: any worker of any rforkd of this user
// on this host reaches the agent by the move's id, on a socket that has no file and ends with it.
// So it doesn't matter whether the rforkd that forked the agent still runs.
#pragma once

#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "session/worker.h"

namespace rfork::session {

/// The agent's side.
class AgentDoor {
 public:
  /// Throws Error when there can't be one.
  explicit AgentDoor(const std::string& move_id);
  /// Readable when somebody comes.
  int fd() const { return listener_.get(); }
  /// Who came, if it is a process of this user or of root; empty else.
  UniqueFd take();

 private:
  UniqueFd listener_;
};

/// A worker's side, for ATTEND: passes bytes between its client and the agent until one of them
/// closes. Throws Refusal(destination_refused) when there is no such agent.
void answer_attend(WorkerContext& worker, const net::Frame& request);

}  // namespace rfork::session
