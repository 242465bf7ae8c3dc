// A client's way to a daemon.
#pragma once

#include "net/link.h"
#include "session/destination.h"

namespace rfork::session {

/// Connects to the endpoint and authenticates. Throws as Destination's constructor.
net::Link open_link(const Endpoint& endpoint);

}  // namespace rfork::session
