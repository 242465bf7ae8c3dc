// Whose process is at the other end of a loopback connection.
#pragma once

namespace rfork::session {

/// Whether the peer of a TCP connection is a process on this host of this process's own user, or
/// root's. What can't be found out counts as no. From /proc/net/tcp, because TCP has no
/// SO_PEERCRED.
bool is_own_peer(int socket);

}  // namespace rfork::session
