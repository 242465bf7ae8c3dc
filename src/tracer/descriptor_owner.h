// Who gets the signals of a descriptor: fcntl(2), F_SETOWN_EX and F_SETSIG.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/error.h"
#include "image/model.h"

namespace rfork::tracer {

/// Completes `description`, which descriptor `fd` of `pid` has. What a thread is called is said as
/// the process sees it. An owner that doesn't come along becomes an obstacle.
void describe_owner(pid_t pid, int fd, image::Description& description,
                    std::vector<Reason>& obstacles);

}  // namespace rfork::tracer
