#include "timers.h"

#include <errno.h>
#include <sys/syscall.h>

#include "syscall_x86_64.h"

namespace rfork::stub {

using loader::plan::Timer;

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr uint64_t kAbsolute = 1;  // TIMER_ABSTIME

struct Time {
  int64_t seconds, nanoseconds;
};
Time time_of(int64_t ns) {
  return {ns / kSecond, ns % kSecond};
}

uint64_t address(const void* object) {
  return reinterpret_cast<uint64_t>(object);
}

/// The clock as the kernel numbers it here: an id stands inverted above three bits
/// (include/linux/posix-timers_types.h).
int32_t clock_of(const Timer& timer) {
  if (timer.clock_tid == 0) return timer.clock;
  const int32_t tid = *reinterpret_cast<const int32_t*>(timer.clock_tid);
  return static_cast<int32_t>(~static_cast<uint32_t>(tid) << 3) | (timer.clock & 7);
}

long set_time(const Timer& timer, uint64_t flags, int64_t value_ns) {
  const struct { Time interval, value; } setting = {time_of(timer.interval_ns), time_of(value_ns)};
  return system_call(SYS_timer_settime, static_cast<uint64_t>(timer.id), flags, address(&setting),
                     0);
}

/// Sets it to an expiry that lies `before_ns` before the next one, so that it expires at once and
/// then goes on in step. A clock that is younger than that gives what it can.
long set_to_past(const Timer& timer, int64_t before_ns) {
  Time now{};
  const long result =
      system_call(SYS_clock_gettime, static_cast<uint64_t>(static_cast<int64_t>(clock_of(timer))),
                  address(&now));
  if (result != 0) return result;
  const int64_t at = now.seconds * kSecond + now.nanoseconds + timer.value_ns - before_ns;
  return set_time(timer, kAbsolute, at > 0 ? at : 1);
}

/// Takes the timer's signal as the process has done; whether it said as many overruns.
bool take_signal(const Timer& timer) {
  struct Info {
    int32_t signal, error, code, unused, id, overrun;
    uint64_t rest[13];
  } info{};
  const uint64_t set = 1ull << (timer.event.signal - 1);
  const Time patience = {0, 100'000'000};
  const long taken = system_call(SYS_rt_sigtimedwait, address(&set), address(&info),
                                 address(&patience), sizeof set);
  return taken == timer.event.signal && info.id == timer.id && info.overrun == timer.overrun;
}

}  // namespace

long make_timer(const Timer& timer) {
  Timer::Event event = timer.event;
  if (timer.notify_tid != 0) event.tid = *reinterpret_cast<const int32_t*>(timer.notify_tid);
  const auto clock = static_cast<uint64_t>(static_cast<int64_t>(clock_of(timer)));
  for (;;) {
    // In: the id to have, where the kernel was told to take it. Else they count up.
    int32_t id = timer.id;
    const long result = system_call(SYS_timer_create, clock, address(&event), address(&id));
    if (result != 0 || id == timer.id) return result;
    system_call(SYS_timer_delete, static_cast<uint64_t>(id));
    if (id > timer.id) return -EEXIST;
  }
}

long start_timer(const Timer& timer) {
  if (timer.pending != 0) return set_to_past(timer, timer.interval_ns);
  if (timer.overrun == 0) return timer.value_ns == 0 ? 0 : set_time(timer, 0, timer.value_ns);
  // What timer_getoverrun(2) tells is what the last signal said. It can't be set, so such a signal
  // is made.
  constexpr int kTries = 5;  // an expiry may come in between
  for (int i = 0; i < kTries; ++i) {
    const int64_t overruns = timer.overrun;
    const long result = set_to_past(timer, (overruns + 1) * timer.interval_ns);
    if (result != 0) return result;
    if (take_signal(timer)) return 0;
  }
  return 0;
}

}  // namespace rfork::stub
