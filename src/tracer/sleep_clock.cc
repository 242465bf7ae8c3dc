#include "tracer/sleep_clock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/clock.h"
#include "base/io.h"
#include "tracer/interrupted_call.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

struct Note {
  int64_t ran_ns = 0;  // se.exec_start, by the clock of `cpu`
  uint64_t switches = 0;
  int cpu = 0;  // where it ran last
  int64_t read_at_ns = 0;
};

std::optional<uint64_t> read_switches(pid_t pid, pid_t tid, int64_t* ran_ns) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/task/{}/sched", pid, tid));
  if (!text) return std::nullopt;
  const auto ran = value_of(*text, "se.exec_start");
  const auto switches = value_of(*text, "nr_switches");
  if (!ran || !switches) return std::nullopt;
  if (ran_ns != nullptr) *ran_ns = static_cast<int64_t>(std::strtod(ran->c_str(), nullptr) * 1e6);
  return std::strtoull(switches->c_str(), nullptr, 10);
}

std::optional<Note> read_note(pid_t pid, pid_t tid) {
  Note note;
  const auto switches = read_switches(pid, tid, &note.ran_ns);
  const auto stat = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/task/{}/stat", pid, tid));
  if (!switches || !stat) return std::nullopt;
  note.switches = *switches;
  note.cpu = std::stoi(parse_stat_fields(*stat).at(39 - 3));
  note.read_at_ns = clock_ns(CLOCK_MONOTONIC);
  return note;
}

bool in_timed_call(pid_t pid, pid_t tid) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/task/{}/syscall", pid, tid));
  if (!text || text->empty() || (*text)[0] < '0' || (*text)[0] > '9') return false;
  return may_have_relative_time_out(std::strtol(text->c_str(), nullptr, 10));
}

// CLOCK_MONOTONIC less the clock of this thread's processor, once this thread is on the right one.
std::optional<int64_t> offset_here(int cpu) {
  ::sched_yield();  // makes the scheduler note the time for this very thread
  const auto own = read_note(::getpid(), ::gettid());
  if (!own || own->cpu != cpu) return std::nullopt;
  return own->read_at_ns - own->ran_ns;
}

std::optional<int64_t> offset_of(int cpu) {
  cpu_set_t before, there;
  if (::sched_getaffinity(0, sizeof before, &before) != 0) return std::nullopt;
  CPU_ZERO(&there);
  CPU_SET(static_cast<unsigned>(cpu), &there);
  if (::sched_setaffinity(0, sizeof there, &there) != 0) return std::nullopt;
  const auto offset = offset_here(cpu);
  ::sched_setaffinity(0, sizeof before, &before);
  return offset;
}

}  // namespace

std::map<pid_t, Sleep> measure_sleeps(pid_t pid, const std::vector<pid_t>& tids) {
  std::map<pid_t, Note> notes;
  for (const pid_t tid : tids) {
    if (!in_timed_call(pid, tid)) continue;
    if (const auto note = read_note(pid, tid)) notes.emplace(tid, *note);
  }
  std::map<int, std::optional<int64_t>> offsets;
  std::map<pid_t, Sleep> sleeps;
  for (const auto& [tid, note] : notes) {
    if (!offsets.contains(note.cpu)) offsets[note.cpu] = offset_of(note.cpu);
    const auto offset = offsets[note.cpu];
    if (!offset) continue;
    sleeps[tid] = {std::max<int64_t>(0, note.read_at_ns - (note.ran_ns + *offset)), note.switches};
  }
  return sleeps;
}

bool slept_until_stopped(pid_t pid, pid_t tid, const Sleep& sleep) {
  // One more switch: from the stop. More, and it had woken in between.
  const auto switches = read_switches(pid, tid, nullptr);
  return switches && *switches == sleep.switches + 1;
}

}  // namespace rfork::tracer
