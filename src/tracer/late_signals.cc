// What comes to the frozen original of a move that leaves no ghost, and goes with it.
#include <fmt/format.h>

#include <csignal>
#include <map>
#include <utility>

#include "base/value_in.h"
#include "image/signal_word.h"
#include "tracer/capture_state.h"
#include "tracer/ptrace.h"

namespace rfork::tracer {

namespace {

void count_late(pid_t tid, bool shared, size_t carried, const CarriedSignals& timers,
                std::map<int, size_t>& late) {
  const std::vector<image::PendingSignal> now = pending_signals(tid, shared);
  for (size_t i = carried; i < now.size(); ++i) {
    const auto info = value_in<siginfo_t>(now[i]);
    if (info.si_signo != SIGSTOP && !timers.is_of_timer(info)) ++late[info.si_signo];
  }
}

}  // namespace

void Capture::note_losses() {
  State& state = *state_;
  // Once: then somebody else may have ended it.
  if (!state.stopped || std::exchange(state.losses_noted, true)) return;
  const image::Process& process = state.snapshot.processes.front();
  const CarriedSignals carried(process);
  std::map<int, size_t> late;
  count_late(state.pid, true, process.pending.size(), carried, late);
  const auto& threads = state.stopped->threads();
  for (size_t i = 0; i < threads.size(); ++i) {
    count_late(threads[i].tid, false, process.threads[i].pending.size(), carried, late);
  }
  std::string list;
  for (const auto& [signal, count] : late) {
    list += fmt::format("{}{}", list.empty() ? "" : ", ", image::signal_word(signal));
    if (count > 1) list += fmt::format(" ({} times)", count);
  }
  if (late.empty()) return;
  state.losses.push_back(
      fmt::format("what was signalled to it while it was captured is lost: {}", list));
}

const std::vector<std::string>& Capture::losses() const {
  return state_->losses;
}

}  // namespace rfork::tracer
