// To be there for a child that runs detached: its output comes out here, signals go there, and its
// end is known.
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>

#include "session/child_info.h"
#include "session/destination.h"

namespace rfork::session {

struct AttachOptions {
  std::chrono::seconds linger{30};  ///< how long a daemon may be out of reach
  /// What the child writes to its standard output and error, from the start.
  std::function<void(std::span<const std::byte>)> output;
};

/// Returns when the child has ended and all its output was given. Meanwhile every signal that this
/// process gets and could catch goes to the child, in order; one that would stop it stops both.
/// Throws Refusal(connection_lost) when the daemon was out of reach for too long; the child goes on
/// then, as it does when this process is killed. For a process with one thread.
ChildInfo attach(const Endpoint& endpoint, const std::string& id, const AttachOptions& options);

}  // namespace rfork::session
