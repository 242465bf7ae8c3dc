// Whether the sockets of a process that is to come here can have their names.
#pragma once

#include <vector>

#include "base/error.h"
#include "session/offer.h"

namespace rfork::session {

/// Tries each name, and lets it go again; a reason for each that can't be had. `same_boot`: the
/// origin is this host. With the rights of the child's user. Gives the TCP connections to elsewhere
/// that can't be taken from the original.
std::vector<image::Socket> check_sockets(const Offer& offer, bool same_boot,
                                         std::vector<Reason>& reasons);

}  // namespace rfork::session
