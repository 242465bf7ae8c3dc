// The groups whose messages a socket receives: no call lists them, but the kernel tells for one
// group whether this socket is in it (MCAST_MSFILTER), and which groups a host is in at all.
#pragma once

#include <sys/types.h>

#include "image/model.h"

namespace rfork::tracer {

/// Multicast memberships, and the groups of a netlink socket. `pid`: a process of the socket's
/// network namespace.
void add_groups(int fd, pid_t pid, image::Socket& socket);

/// The index of the interface in the name of a packet socket.
int packet_interface(const Bytes& name);

}  // namespace rfork::tracer
