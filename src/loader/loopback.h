// TCP connections of this host with itself.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <utility>

#include "base/io.h"
#include "base/unique_fd.h"

namespace rfork::loader {

/// getsockname(2), or getpeername(2): a struct sockaddr. Empty: it has none.
Bytes socket_name(int fd, decltype(::getsockname)* ask = ::getsockname);

/// connect(2) of a socket that doesn't wait, to a struct sockaddr, within 5 s. 0, or an errno.
int connect_within(int fd, const Bytes& name);

/// What comes from `client`, a connected socket of this host; whoever else has found the port of
/// `listening` is turned away. None if nothing comes within 5 s.
UniqueFd accept_from(int listening, int client);

/// Both ends of a connection over the loopback interface, of the family of `like`, a struct
/// sockaddr of IPv4 or IPv6. The first doesn't wait. nullopt, and errno: there is no such interface
/// here.
std::optional<std::pair<UniqueFd, UniqueFd>> make_loopback_pair(const Bytes& like);

}  // namespace rfork::loader
