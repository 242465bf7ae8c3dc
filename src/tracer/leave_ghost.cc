// After the commit of a move: the original becomes a ghost (ghost.h) instead of ending.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <span>

#include "base/io.h"
#include "tracer/capture_state.h"
#include "tracer/posix_timers.h"
#include "tracer/ptrace.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kAllSignals = ~uint64_t{0};

void set_call(pid_t tid, uint64_t code, long number, uint64_t argument) {
  user_regs_struct regs = registers(tid);
  regs.rip = code;
  regs.rax = static_cast<uint64_t>(number);
  regs.orig_rax = kAllSignals;  // -1: no system call to restart
  regs.rdi = argument;
  set_registers(tid, regs);
}

void end_thread(pid_t tid, const InjectionSite& site) {
  try {
    set_signal_mask(tid, kAllSignals);
    set_call(tid, site.call_then_exit(), SYS_exit, 0);
    do {
      resume(tid, PTRACE_CONT);
    } while (!wait_for(tid).gone());
  } catch (const ProcessGone&) {
    // It was on its way already.
  }
}

/// What stays mapped: the kernel's own pages, and the stack that injected calls use.
std::vector<Range> kept_ranges(const std::vector<MapsLine>& maps, uint64_t stack_pointer) {
  std::vector<Range> kept;
  for (const MapsLine& line : maps) {
    if (line.name.starts_with("[v") || line.range.contains(stack_pointer)) {
      kept.push_back(line.range);
    }
  }
  return kept;
}

void drop_memory(RemoteSyscalls& calls, const std::vector<MapsLine>& maps) {
  uint64_t at = maps.empty() ? 0 : maps.front().range.start;
  const auto unmap = [&](uint64_t end) {
    if (at < end) calls.call(SYS_munmap, {at, end - at});
  };
  for (const Range& kept : kept_ranges(maps, calls.scratch())) {
    unmap(kept.start);
    at = kept.end;
  }
  if (!maps.empty()) unmap(maps.back().range.end);
}

/// What the kernel leaves out of the queue where nobody handles it, and no one needs to die of.
bool is_ignored_by_default(int signal) {
  return signal == SIGCHLD || signal == SIGCONT || signal == SIGURG || signal == SIGWINCH;
}

void drop_state(RemoteSyscalls& calls, const ProcessMemory& memory, const image::Process& process) {
  calls.prepare();
  const Bytes zeros(RemoteSyscalls::kScratchSize);
  memory.try_write(calls.scratch(), zeros);
  for (uint64_t which = 0; which < process.timers.size(); ++which) {
    calls.call(SYS_setitimer, {which, calls.scratch(), 0});
  }
  for (const image::SignalAction& action : process.actions) {
    const bool fixed = action.signal == SIGKILL || action.signal == SIGSTOP;
    // What waits stays: the ghost's attendant passes on what the child hasn't.
    if (action.handler == 0 || fixed || is_ignored_by_default(action.signal)) continue;
    calls.call(SYS_rt_sigaction,
               {static_cast<uint64_t>(action.signal), calls.scratch(), 0, sizeof(uint64_t)});
  }
  for (const image::PosixTimer& timer : list_timers(calls.tid())) {
    calls.call(SYS_timer_delete, {static_cast<uint64_t>(timer.id)});
  }
  const image::Rseq& rseq = process.threads.front().rseq;
  if (rseq.address != 0) {
    constexpr uint64_t kUnregister = 1;
    calls.call(SYS_rseq, {rseq.address, rseq.size, kUnregister, rseq.signature});
  }
  calls.call(SYS_close_range, {0, UINT32_MAX, 0});
}

}  // namespace

CarriedSignals Capture::leave_ghost() {
  State& state = *state_;
  if (!state.stopped) return {};
  state.paused = paused();
  if (state.held) {
    // The stop signal is taken back: the thread meets it before anything else, for it alone can't
    // be blocked.
    set_signal_mask(state.pid, kAllSignals);
    resume(state.pid, PTRACE_CONT);
    if (wait_for(state.pid).gone()) throw ProcessGone(state.pid);
    state.held = false;
  }
  const auto maps = parse_maps(read_file(fmt::format("/proc/{}/maps", state.pid)));
  const auto vdso = vdso_range(maps).value_or(Range{});
  const InjectionSite site(state.pid, state.original, vdso, state.examination.needs.host, {});
  std::vector<StoppedThread>& threads = state.stopped->threads();
  for (size_t i = 1; i < threads.size(); ++i) end_thread(threads[i].tid, site);
  threads.resize(1);
  const image::Process& process = state.snapshot.processes.front();
  user_regs_struct going_on;
  std::memcpy(&going_on, process.threads.front().registers.data(), sizeof going_on);
  {
    RemoteSyscalls calls(threads.front(), state.original, site, going_on);
    drop_state(calls, state.original, process);
    drop_memory(calls, maps);
  }
  const rlimit none{0, 0};  // a ghost that dies of the child's signal has nothing to dump
  ::prlimit(state.pid, RLIMIT_CORE, &none, nullptr);
  set_signal_mask(state.pid, kAllSignals);
  set_call(state.pid, site.call_then_return(), SYS_pause, 0);
  state.stopped->detach();
  state.stopped.reset();
  state.remove_own_segments();
  return CarriedSignals(process);
}

}  // namespace rfork::tracer
