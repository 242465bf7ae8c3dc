// Whose process is at the other end of a loopback connection.
#pragma once

namespace rfork::session {

/// Whether the peer of a TCP connection is a process on this host of this process's own user, or
/// root's. What can't be found out counts as no. TCP has no SO_PEERCRED, so the peer's socket is
/// looked up: through sock_diag(7), and where that is missing in /proc/net/tcp, which costs
/// milliseconds.
bool is_own_peer(int socket);

}  // namespace rfork::session
