#include "tracer/posix_timers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <ctime>
#include <stdexcept>

#include "base/io.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

// include/linux/posix-timers_types.h: the id, inverted, above three bits.
constexpr int32_t kClockBits = 3;
constexpr int32_t kThreadClock = 4;

[[noreturn]] void no_timers(std::string_view line) {
  throw std::invalid_argument("/proc/PID/timers has a line that is none: " + std::string(line));
}

template <typename T>
T number(std::string_view text, std::string_view line, int base = 10) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) no_timers(line);
  return value;
}

// "14/00007ffc1234abcd"
void parse_signal(std::string_view text, image::PosixTimer& timer) {
  const size_t slash = std::min(text.find('/'), text.size());
  timer.signal = number<int32_t>(text.substr(0, slash), text);
  timer.value = number<uint64_t>(text.substr(std::min(slash + 1, text.size())), text, 16);
}

// "signal/tid.4711"
void parse_notify(std::string_view text, image::PosixTimer& timer) {
  const size_t slash = text.find('/'), dot = text.rfind('.');
  if (slash == text.npos || dot == text.npos || dot < slash) no_timers(text);
  const std::string_view way = text.substr(0, slash);
  if (way == "signal") {
    timer.notify = SIGEV_SIGNAL;
  } else if (way == "none") {
    timer.notify = SIGEV_NONE;
  } else if (way == "thread") {
    timer.notify = SIGEV_THREAD;
  } else {
    no_timers(text);
  }
  if (text.substr(slash + 1, dot - slash - 1) != "tid") return;
  timer.notify |= SIGEV_THREAD_ID;
  timer.thread = number<int32_t>(text.substr(dot + 1), text);
}

}  // namespace

std::vector<image::PosixTimer> parse_timers(std::string_view text) {
  std::vector<image::PosixTimer> timers;
  for (const std::string_view line : split(text, '\n')) {
    const size_t colon = line.find(": ");
    if (colon == line.npos) no_timers(line);
    const std::string_view key = line.substr(0, colon), value = line.substr(colon + 2);
    if (key == "ID") {
      timers.push_back({.id = number<int32_t>(value, line)});
      continue;
    }
    if (timers.empty()) no_timers(line);
    if (key == "signal") parse_signal(value, timers.back());
    if (key == "notify") parse_notify(value, timers.back());
    if (key == "ClockID") timers.back().clock = number<int32_t>(value, line);
  }
  std::ranges::sort(timers, {}, &image::PosixTimer::id);
  return timers;
}

std::vector<image::PosixTimer> list_timers(pid_t pid) {
  return parse_timers(try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/timers", pid)).value_or(""));
}

ClockOwner clock_owner(int32_t clock) {
  return {~(clock >> kClockBits), (clock & kThreadClock) != 0};
}

int32_t own_clock(int32_t clock) {
  constexpr int32_t kMask = (1 << kClockBits) - 1;
  return (~0 & ~kMask) | (clock & kMask);
}

void find_timer_obstacles(const std::vector<image::PosixTimer>& timers,
                          const std::vector<int32_t>& tids, std::vector<Reason>& obstacles) {
  for (const image::PosixTimer& timer : timers) {
    if (timer.clock >= 0) continue;
    const ClockOwner owner = clock_owner(timer.clock);
    if (owner.id == 0 || std::ranges::find(tids, owner.id) != tids.end()) continue;
    obstacles.push_back(
        {fmt::format("POSIX timer {} counts the CPU time of {} {}, which doesn't come along",
                     timer.id, owner.thread ? "thread" : "process", owner.id),
         "--drop-timers goes on without timers"});
  }
}

void ask_timer(RemoteSyscalls& calls, const ProcessMemory& memory, image::PosixTimer& timer) {
  calls.prepare();
  const auto id = static_cast<uint64_t>(timer.id);
  if (const long result = calls.call(SYS_timer_gettime, {id, calls.scratch()}); result != 0) {
    throw Error("timer_gettime", static_cast<int>(-result),
                fmt::format("of timer {} in {}", timer.id, memory.pid()));
  }
  const auto left = memory.read_value<itimerspec>(calls.scratch());
  timer.value_ns = left.it_value.tv_sec * 1'000'000'000 + left.it_value.tv_nsec;
  timer.interval_ns = left.it_interval.tv_sec * 1'000'000'000 + left.it_interval.tv_nsec;
  const long overrun = calls.call(SYS_timer_getoverrun, {id});
  timer.overrun = overrun > 0 ? static_cast<int32_t>(overrun) : 0;
}

bool counts_for(RemoteSyscalls& calls, const ProcessMemory& memory,
                const image::PosixTimer& timer) {
  image::PosixTimer first = timer, second = timer;
  ask_timer(calls, memory, first);
  ask_timer(calls, memory, second);
  return first.value_ns != second.value_ns;
}

}  // namespace rfork::tracer
