// The passes of a capture that read timers, with the signals of those that have expired, and find
// out which threads POSIX timers belong to.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/clock.h"
#include "tracer/capture_state.h"
#include "tracer/posix_timers.h"
#include "tracer/process_state.h"
#include "tracer/ptrace.h"

namespace rfork::tracer {

namespace {

bool expires_within(const image::Process& process, int64_t ns) {
  const auto is_near = [ns](int64_t left_ns) { return left_ns > 0 && left_ns <= ns; };
  return std::ranges::any_of(process.timers,
                             [&](const auto& timer) { return is_near(timer.value_us * 1000); }) ||
         std::ranges::any_of(process.posix_timers, is_near, &image::PosixTimer::value_ns);
}

}  // namespace

// A timer that expires meanwhile must be found either running or as a signal that waits, and better
// as both than as neither. So signals are read last, and all once more if one may have expired in
// between; what counts again and again, faster than that, is never found at rest.
void Capture::State::read_timers_and_signals(RemoteSyscalls& calls, image::Process& process) {
  constexpr int kMostTries = 10;
  for (int tries = 1;; ++tries) {
    const int64_t start = clock_ns(CLOCK_MONOTONIC);
    ask_timers(calls, original, process);
    if (!options.drop_timers) {
      process.posix_timers = list_timers(pid);
      for (image::PosixTimer& timer : process.posix_timers) ask_timer(calls, original, timer);
    }
    for (size_t i = 0; i < process.threads.size(); ++i) {
      process.threads[i].pending = pending_signals(stopped->threads()[i].tid, false);
    }
    process.pending = pending_signals(pid, true);
    const int64_t took_ns = clock_ns(CLOCK_MONOTONIC) - start;
    if (tries == kMostTries || !expires_within(process, took_ns)) return;
  }
}

// Whose CPU time a timer counts, and whom it signals, in the process's own numbers. Before the
// threads go on, for the kernel tells of a timer on CLOCK_THREAD_CPUTIME_ID no more than that it is
// one.
void Capture::State::settle_timer_threads(image::Process& process) {
  const auto& threads = stopped->threads();
  for (image::PosixTimer& timer : process.posix_timers) {
    const auto notified = std::ranges::find(threads, timer.thread, &StoppedThread::tid);
    const auto index = static_cast<size_t>(notified - threads.begin());
    timer.thread = notified == threads.end() ? 0 : process.threads[index].tid;
    if (timer.clock >= 0) continue;
    const ClockOwner owner = clock_owner(timer.clock);
    timer.clock = own_clock(timer.clock);
    if (!owner.thread) continue;
    timer.clock_thread = owner.id != 0 ? owner.id : find_clock_thread(process, timer);
  }
}

int32_t Capture::State::find_clock_thread(const image::Process& process,
                                          const image::PosixTimer& timer) {
  const auto& threads = stopped->threads();
  if (threads.size() == 1) return process.threads[0].tid;
  // Mostly the one that it signals.
  std::vector<size_t> order(threads.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_partition(order,
                                [&](size_t i) { return process.threads[i].tid == timer.thread; });
  for (const size_t i : order) {
    if (timer.value_ns == 0) break;
    RemoteSyscalls calls(threads[i], original, *site, going_on(process.threads[i]));
    if (counts_for(calls, original, timer)) return process.threads[i].tid;
  }
  if (timer.value_ns == 0 && timer.thread != 0) return timer.thread;
  throw Refusal(
      Failure::cannot_carry,
      fmt::format("POSIX timer {} counts the CPU time of a thread that can't be told", timer.id),
      "--drop-timers goes on without timers");
}

}  // namespace rfork::tracer
