// A client's way to a daemon.
#pragma once

#include "net/link.h"
#include "session/destination.h"

namespace rfork::session {

/// Connects to the endpoint and authenticates. Throws as Destination's constructor.
net::Link open_link(const Endpoint& endpoint);
/// A new connection to whoever attends to the child of `move_id` there. What is said on it starts
/// with FramePump::resume(). Throws as open_link(), and Refusal(destination_refused) when nobody
/// attends to that child.
net::Link reach_agent(const Endpoint& endpoint, const std::string& move_id);

}  // namespace rfork::session
