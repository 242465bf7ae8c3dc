#include "tracer/stopped_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/io.h"
#include "tracer/proc_text.h"
#include "tracer/process_state.h"
#include "tracer/ptrace.h"
#include "tracer/seccomp.h"

namespace rfork::tracer {

namespace {

// A thread in an uninterruptible wait (a dead NFS server, a vfork(2) whose child has not exec'ed)
// can't be stopped.
constexpr std::chrono::milliseconds kStopTimeout{5000};
constexpr int kLeaveTries = 1000;

std::vector<pid_t> list_threads(pid_t pid) {
  auto tids = try_list_numbers(fmt::format("/proc/{}/task", pid));
  if (!tids) throw ProcessGone(pid);
  return *std::move(tids);
}

}  // namespace

void refuse_seize(pid_t pid, int errno_value) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/status", pid));
  if (!text || errno_value == ESRCH) {
    throw Refusal(Failure::cannot_trace, fmt::format("there is no process {}", pid));
  }
  const auto status = parse_status(*text);
  const auto state = status.find("State");
  if (state != status.end() && (state->second.starts_with("Z") || state->second.starts_with("X"))) {
    throw Refusal(Failure::cannot_trace, fmt::format("process {} has just ended", pid));
  }
  const auto tracer = status.find("TracerPid");
  if (tracer != status.end() && tracer->second != "0") {
    throw Refusal(Failure::cannot_trace,
                  fmt::format("process {} is traced already, by process {}", pid, tracer->second),
                  "end that debugger or tracer first");
  }
  const auto uid = status.find("Uid");
  const std::string owner =
      uid == status.end() ? "" : uid->second.substr(0, uid->second.find('\t'));
  if (::geteuid() != 0 && owner != std::to_string(::geteuid())) {
    throw Refusal(
        Failure::cannot_trace,
        fmt::format("process {} belongs to uid {}, not to you (uid {})", pid, owner, ::geteuid()),
        "run rfork-trace as that user or as root");
  }
  const auto yama = try_read_file_at(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope");
  if (yama && (*yama)[0] != '0') {
    throw Refusal(
        Failure::cannot_trace,
        fmt::format("the kernel forbids tracing process {} (kernel.yama.ptrace_scope is {})", pid,
                    (*yama)[0]),
        "run rfork-trace as root, or set kernel.yama.ptrace_scope to 0");
  }
  throw Refusal(
      Failure::cannot_trace,
      fmt::format("process {} can't be traced: {}", pid,
                  std::generic_category().message(errno_value)),
      "a process that changed its user, or made itself not dumpable, can be traced by root only");
}

StoppedProcess::StoppedProcess(pid_t pid, const std::function<bool()>& interrupted)
    : pid_(pid),
      interrupted_(interrupted),
      options_(PTRACE_O_TRACESYSGOOD | seccomp_option(pid)),
      sleeps_(measure_sleeps(pid, list_threads(pid))),
      stopped_at_(std::chrono::steady_clock::now()) {
  try {
    size_t stopped = 0;
    for (;;) {
      attach_new_threads();
      if (stopped == threads_.size()) break;
      while (stopped < threads_.size()) {
        if (stop_thread(threads_[stopped])) {
          ++stopped;
        } else {
          threads_.erase(threads_.begin() + static_cast<ptrdiff_t>(stopped));
        }
      }
    }
    for (StoppedThread& thread : threads_) thread.registers = registers(thread.tid);
  } catch (...) {
    detach();
    throw;
  }
  const auto leader =
      std::find_if(threads_.begin(), threads_.end(),
                   [pid](const StoppedThread& thread) { return thread.tid == pid; });
  if (leader == threads_.end()) {
    detach();
    throw Refusal(Failure::cannot_trace,
                  fmt::format("the main thread of process {} has ended while others run", pid),
                  "such a process can't be restored with its pid");
  }
  std::rotate(threads_.begin(), leader, leader + 1);
}

StoppedProcess::~StoppedProcess() {
  detach();
}

void StoppedProcess::attach_new_threads() {
  for (const pid_t tid : list_threads(pid_)) {
    const bool known =
        std::any_of(threads_.begin(), threads_.end(),
                    [tid](const StoppedThread& thread) { return thread.tid == tid; });
    if (known) continue;
    StoppedThread thread;
    thread.tid = tid;
    if (const auto slept = sleeps_.find(tid); slept != sleeps_.end()) thread.sleep = slept->second;
    if (threads_.empty()) stopped_at_ = std::chrono::steady_clock::now();
    if (const int error = try_seize(tid, options_); error != 0) {
      const bool ends = is_ending(fmt::format("/proc/{}/task/{}/", pid_, tid));
      if (tid != pid_ && (error == ESRCH || ends)) continue;
      refuse_seize(tid, error);
    }
    threads_.push_back(thread);
    try {
      interrupt(tid);
    } catch (const ProcessGone&) {
      if (tid == pid_) throw;  // of another thread stop_thread() sees the end
    }
  }
}

/// False: it has ended before it could be stopped.
bool StoppedProcess::stop_thread(StoppedThread& thread) {
  const auto deadline = std::chrono::steady_clock::now() + kStopTimeout;
  for (;;) {
    const auto status = wait_for(thread.tid, std::chrono::milliseconds(50));
    if (interrupted_())
      throw Refusal(Failure::interrupted, fmt::format("interrupted; {} goes on", pid_));
    if (!status) {
      if (std::chrono::steady_clock::now() < deadline) continue;
      throw Refusal(
          Failure::cannot_trace,
          fmt::format(
              "thread {} of process {} can't be stopped: it waits uninterruptibly in the kernel",
              thread.tid, pid_),
          "try again when the device or file system it waits for answers");
    }
    switch (status->kind()) {
      case WaitStatus::Kind::exited:
      case WaitStatus::Kind::killed:
        if (thread.tid != pid_) return false;
        throw ProcessGone(pid_);
      case WaitStatus::Kind::interrupt_stop:
        return true;
      case WaitStatus::Kind::group_stop:
        stop_signal_ = status->signal();
        return true;
      case WaitStatus::Kind::signal_delivery_stop:
        // Delivered now; the interrupt that is still pending then stops the thread in front of the
        // handler.
        resume(thread.tid, PTRACE_CONT, status->signal());
        break;
      case WaitStatus::Kind::syscall_stop:
      case WaitStatus::Kind::event_stop:
        resume(thread.tid, PTRACE_CONT);
        break;
    }
  }
}

void StoppedProcess::leave_range(const Range& range) {
  for (size_t i = 0; i < threads_.size();) {
    if (leaves(threads_[i], range)) {
      ++i;
    } else {
      threads_.erase(threads_.begin() + static_cast<ptrdiff_t>(i));
    }
  }
}

/// False: it has ended on its way.
bool StoppedProcess::leaves(StoppedThread& thread, const Range& range) {
  for (int tries = 0; range.contains(thread.registers.rip); ++tries) {
    if (tries == kLeaveTries) {
      throw Refusal(Failure::cannot_trace,
                    fmt::format("thread {} never leaves the vDSO (at {:#x})", thread.tid,
                                thread.registers.rip),
                    "try again");
    }
    resume(thread.tid, PTRACE_CONT);
    // On a busy host it would meet the interrupt before its next instruction.
    std::this_thread::sleep_for(std::min(tries + 1, 50) * std::chrono::microseconds(20));
    interrupt(thread.tid);
    if (!stop_thread(thread)) return false;
    thread.registers = registers(thread.tid);
    thread.sleep.reset();
  }
  return true;
}

void StoppedProcess::detach() {
  if (!attached_) return;
  attached_ = false;
  for (const StoppedThread& thread : threads_) {
    if (tracer::detach(thread.tid)) continue;
    // Not in a stop yet (the constructor failed half-way): wait for it, then try once more.
    try {
      if (const auto status = wait_for(thread.tid, kStopTimeout); status && !status->gone()) {
        const bool deliver = status->kind() == WaitStatus::Kind::signal_delivery_stop;
        tracer::detach(thread.tid, deliver ? status->signal() : 0);
      }
    } catch (const std::exception&) {
      // It has ended: nothing is left to detach from.
    }
  }
}

}  // namespace rfork::tracer
