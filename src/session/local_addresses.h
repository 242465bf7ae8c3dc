// Which addresses a host has, and when they go: rtnetlink(7).
#pragma once

#include <vector>

#include "base/tcp_silence.h"

namespace rfork::session {

/// Makes the kernel tell of each change of an address. `route` is a socket of NETLINK_ROUTE. Throws
/// Error.
void listen_to_addresses(int route);
/// Returns when none of the connections' own addresses is this host's any more. `route`, in their
/// network namespace, listens. Sleeps until an address changes.
void await_departure(int route, const std::vector<TcpTuple>& connections);

}  // namespace rfork::session
