// The timers of timer_create(2), as the child makes and starts them.
#pragma once

#include "plan.h"

namespace rfork::stub {

/// 0, or -errno; -EEXIST: the kernel gives ids beyond it already.
long make_timer(const loader::plan::Timer& timer);
/// What is left of it runs from now on. All signals are blocked, in every thread.
long start_timer(const loader::plan::Timer& timer);

}  // namespace rfork::stub
