#include "tracer/carried_signals.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace rfork::tracer {

CarriedSignals::CarriedSignals(const image::Process& process)
    : pending_(process.pending), moved_(true) {
  const auto& leader = process.threads.front().pending;
  pending_.insert(pending_.end(), leader.begin(), leader.end());
  constexpr std::array kSignals{SIGALRM, SIGVTALRM, SIGPROF};  // by ITIMER_*
  for (size_t which = 0; which < kSignals.size(); ++which) {
    const image::IntervalTimer& timer = process.timers[which];
    if (timer.value_us != 0 || timer.interval_us != 0) of_timers_.push_back(kSignals[which]);
  }
}

bool CarriedSignals::take(const siginfo_t& info) {
  image::PendingSignal bytes{};
  static_assert(sizeof info == sizeof bytes);
  std::memcpy(&bytes, &info, sizeof bytes);
  const auto found = std::ranges::find(pending_, bytes);
  if (found == pending_.end()) return false;
  pending_.erase(found);
  return true;
}

bool CarriedSignals::is_of_timer(const siginfo_t& info) const {
  if (info.si_code == SI_TIMER) return moved_;
  return info.si_code == SI_KERNEL &&
         std::ranges::find(of_timers_, info.si_signo) != of_timers_.end();
}

}  // namespace rfork::tracer
