// A netlink socket for sock_diag(7).
#pragma once

#include <sys/types.h>

#include "base/unique_fd.h"

namespace rfork::tracer {

/// A netlink socket of that protocol in the network namespace which process `pid` is in. Empty: it
/// can't be had.
UniqueFd netlink_socket(pid_t pid, int protocol);
/// That asks about the network namespace which process `pid` is in. Empty: it can't be had.
UniqueFd diag_socket(pid_t pid);

}  // namespace rfork::tracer
