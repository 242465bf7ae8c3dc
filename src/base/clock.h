// Clocks, in nanoseconds.
#pragma once

#include <ctime>

#include <cstdint>

namespace rfork {

/// clock_gettime(2) as nanoseconds.
int64_t clock_ns(clockid_t clock);

}  // namespace rfork
