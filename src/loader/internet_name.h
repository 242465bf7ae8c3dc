// Addresses of internet sockets, and what stands in for those that this host doesn't have.
#pragma once

#include <cstdint>

#include "image/model.h"

namespace rfork::loader {

/// A socket's name with another port or address, and without what only another host understands.
/// `fd`: a socket of this host.
Bytes internet_name(const image::Socket& socket, int fd, bool any_address, bool any_port);

/// The loopback address that is next to it: of IPv4 if it is one of IPv4, mapped or not. No port.
Bytes loopback_name(const Bytes& name);

/// The same address for a socket of another family. Empty: there is none.
Bytes in_family(const Bytes& name, int family);

/// In network order; 0: none.
uint16_t port_of(const Bytes& name);
void set_port(Bytes& name, uint16_t port);

/// 0.0.0.0 or ::
bool is_any_address(const Bytes& name);

/// Whether address and port are the same, whatever the family and interface.
bool same_endpoint(const Bytes& a, const Bytes& b);

}  // namespace rfork::loader
