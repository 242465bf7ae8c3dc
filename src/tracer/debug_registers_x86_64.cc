#include "tracer/debug_registers_x86_64.h"

#include <fmt/format.h>
#include <sys/user.h>

#include "base/error.h"
#include "tracer/ptrace.h"

namespace rfork::tracer {

void refuse_debug_registers(const std::vector<StoppedThread>& threads) {
  constexpr uint64_t kEnabled = 0xff;  // of DR7: local and global, of each of four
  std::vector<Reason> reasons;
  for (const StoppedThread& thread : threads) {
    const uint64_t control = peek_user(thread.tid, offsetof(user, u_debugreg[7]));
    if ((control & kEnabled) == 0) continue;
    reasons.push_back(
        {fmt::format("thread {} has hardware breakpoints in its debug registers (DR7 is "
                     "{:#x}), which can't be carried",
                     thread.tid, control),
         "--drop-attributes goes on without them"});
  }
  if (!reasons.empty()) throw Refusal(Failure::cannot_carry, std::move(reasons));
}

}  // namespace rfork::tracer
