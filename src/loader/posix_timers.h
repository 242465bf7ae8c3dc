// Timers of timer_create(2): made while the child still has every privilege and no limit, started
// after GO.
#pragma once

#include <cstdint>
#include <vector>

#include "image/model.h"
#include "loader/plan_writer.h"

namespace rfork::loader {

/// The timer of `process` whose own signal this queued one is; nullptr: it is another's. Such a
/// signal is not queued again: its timer expires once more, and so knows of it.
const image::PosixTimer* timer_of(const image::Process& process,
                                  const image::PendingSignal& signal);

/// By the leader, when all threads have written their tids to `tids`. Gives the address of each
/// plan::Timer. Without `can_wake` clocks that wake a sleeping host are replaced by those that
/// don't.
std::vector<uint64_t> make_posix_timers(PlanWriter& plan, const image::Process& process,
                                        uint64_t tids, bool can_wake);
/// After GO, when all other signals are queued.
void start_posix_timers(PlanWriter& plan, const image::Process& process,
                        const std::vector<uint64_t>& timers);

}  // namespace rfork::loader
