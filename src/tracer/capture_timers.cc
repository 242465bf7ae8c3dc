// The pass of a capture that finds out which threads POSIX timers belong to.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "tracer/capture_state.h"
#include "tracer/posix_timers.h"

namespace rfork::tracer {

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
