#include "loader/posix_timers.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>

// Since Linux 6.15: the id that timer_create(2) finds where it will write it is taken.
#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#endif

namespace rfork::loader {

using image::PosixTimer;
using plan::OpKind;

namespace {

// Of siginfo_t, as far as a timer's signal uses it (include/uapi/asm-generic/siginfo.h).
struct TimerSignal {
  int32_t signal, error, code, unused, id, overrun;
};

TimerSignal read_signal(const image::PendingSignal& signal) {
  TimerSignal result;
  std::memcpy(&result, signal.data(), sizeof result);
  return result;
}

bool is_pending(const image::Process& process, const PosixTimer& timer) {
  const auto of_timer = [&](const image::PendingSignal& signal) {
    return timer_of(process, signal) == &timer;
  };
  return std::ranges::any_of(process.pending, of_timer) ||
         std::ranges::any_of(process.threads, [&](const image::Thread& thread) {
           return std::ranges::any_of(thread.pending, of_timer);
         });
}

/// Whether a signal of the timer can be made and taken by the leader without another one being met.
bool can_make_up_overruns(const image::Process& process, const PosixTimer& timer) {
  const auto same_number = [&](const image::PendingSignal& signal) {
    return read_signal(signal).signal == timer.signal;
  };
  return timer.overrun > 0 && timer.interval_ns > 0 && timer.clock >= 0 &&
         (timer.notify == SIGEV_SIGNAL || timer.notify == SIGEV_THREAD) &&
         std::ranges::none_of(process.pending, same_number) &&
         std::ranges::none_of(process.threads[0].pending, same_number);
}

uint64_t tid_place(const image::Process& process, int32_t tid, uint64_t tids) {
  const auto thread = std::ranges::find(process.threads, tid, &image::Thread::tid);
  if (thread == process.threads.end()) return 0;
  return tids + static_cast<uint64_t>(thread - process.threads.begin()) * sizeof(int32_t);
}

plan::Timer planned(const image::Process& process, const PosixTimer& timer, uint64_t tids) {
  plan::Timer result{};
  result.id = timer.id;
  result.clock = timer.clock;
  result.clock_tid = tid_place(process, timer.clock_thread, tids);
  result.event.value = timer.value;
  result.event.signal = timer.signal;
  result.event.notify = timer.notify;
  if ((timer.notify & SIGEV_THREAD_ID) != 0) {
    result.notify_tid = tid_place(process, timer.thread, tids);
    // Nobody gets what is sent to a thread that has ended.
    if (result.notify_tid == 0) result.event.notify = SIGEV_NONE;
  }
  result.value_ns = timer.value_ns;
  result.interval_ns = timer.interval_ns;
  result.pending = is_pending(process, timer) ? 1 : 0;
  if (can_make_up_overruns(process, timer)) result.overrun = timer.overrun;
  return result;
}

}  // namespace

const PosixTimer* timer_of(const image::Process& process, const image::PendingSignal& signal) {
  const TimerSignal info = read_signal(signal);
  if (info.code != SI_TIMER) return nullptr;
  const auto timer = std::ranges::find(process.posix_timers, info.id, &PosixTimer::id);
  if (timer == process.posix_timers.end() || timer->signal != info.signal) return nullptr;
  return &*timer;
}

std::vector<uint64_t> make_posix_timers(PlanWriter& plan, const image::Process& process,
                                        uint64_t tids, bool can_wake) {
  std::vector<uint64_t> places;
  if (process.posix_timers.empty()) return places;
  const auto take_ids = [&](uint64_t on) {
    plan.try_call(SYS_prctl, {PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0}, "ask for timer ids");
  };
  take_ids(1);
  for (const PosixTimer& timer : process.posix_timers) {
    plan::Timer value = planned(process, timer, tids);
    if (!can_wake && timer.clock == CLOCK_REALTIME_ALARM) value.clock = CLOCK_REALTIME;
    if (!can_wake && timer.clock == CLOCK_BOOTTIME_ALARM) value.clock = CLOCK_BOOTTIME;
    places.push_back(plan.value(value));
    plan.op(OpKind::make_timer, {places.back()},
            fmt::format("timer_create of timer {} (clock {})", timer.id, timer.clock));
  }
  take_ids(0);
  return places;
}

void start_posix_timers(PlanWriter& plan, const image::Process& process,
                        const std::vector<uint64_t>& timers) {
  for (size_t i = 0; i < timers.size(); ++i) {
    plan.op(OpKind::start_timer, {timers[i]},
            fmt::format("timer_settime of timer {}", process.posix_timers[i].id));
  }
}

}  // namespace rfork::loader
