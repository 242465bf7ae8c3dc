// Hardware breakpoints and watchpoints that ptrace(2) has set for a thread, and that outlive their
// tracer.
#pragma once

#include <vector>

#include "tracer/stopped_process.h"

namespace rfork::tracer {

/// Throws Refusal(cannot_carry) that names every thread with such: only a tracer can set them
/// again, and the restored process has none.
void refuse_debug_registers(const std::vector<StoppedThread>& threads);

}  // namespace rfork::tracer
