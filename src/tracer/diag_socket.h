// A netlink socket for sock_diag(7).
#pragma once

#include <sys/types.h>

#include "base/unique_fd.h"

namespace rfork::tracer {

/// That asks about the network namespace which process `pid` is in. Empty: it can't be had.
UniqueFd diag_socket(pid_t pid);

}  // namespace rfork::tracer
