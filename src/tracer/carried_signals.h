// Signals that wait in the original of a move, and that the child has already.
#pragma once

#include <csignal>
#include <vector>

#include "image/model.h"

namespace rfork::tracer {

class CarriedSignals {
 public:
  CarriedSignals() = default;
  /// Those that the capture of `process` has found in its leader and in all of it.
  explicit CarriedSignals(const image::Process& process);

  bool any() const { return moved_; }
  /// Whether the child has this one. Each counts once.
  bool take(const siginfo_t& info);
  /// Whether a timer has sent it: the child has its own, or none.
  bool is_of_timer(const siginfo_t& info) const;

 private:
  std::vector<image::PendingSignal> pending_;
  std::vector<int> of_timers_;  ///< sent by interval timers that are running
  bool moved_ = false;
};

}  // namespace rfork::tracer
