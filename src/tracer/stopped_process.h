// A process with all its threads stopped, for as long as the object lives.
//
// PTRACE_SEIZE and PTRACE_INTERRUPT, never ATTACH and SIGSTOP: the process sees nothing of it. A
// signal that arrives on the way is given back, a group-stop stays one. Threads are looked for
// until a whole pass over /proc/PID/task finds no new one, since a running thread may start others.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/range.h"
#include "tracer/sleep_clock.h"

namespace rfork::tracer {

struct StoppedThread {
  pid_t tid = 0;
  user_regs_struct
      registers{};             ///< as they are; an interrupted system call is still to be restarted
  std::optional<Sleep> sleep;  ///< measured before the stop, in a call with a time-out
};

class StoppedProcess {
 public:
  /// Seizes and stops every thread. Throws Refusal(cannot_trace), ProcessGone, Error; nothing stays
  /// attached then.
  explicit StoppedProcess(pid_t pid, const std::function<bool()>& interrupted);
  /// Detaches: every thread goes on (a stopped process stays stopped).
  ~StoppedProcess();
  StoppedProcess(const StoppedProcess&) = delete;
  StoppedProcess& operator=(const StoppedProcess&) = delete;

  pid_t pid() const { return pid_; }
  /// The thread-group leader first.
  std::vector<StoppedThread>& threads() { return threads_; }
  const std::vector<StoppedThread>& threads() const { return threads_; }
  /// The signal of a group-stop the process is in; 0: it was running.
  int stop_signal() const { return stop_signal_; }
  std::chrono::steady_clock::time_point stopped_at() const { return stopped_at_; }
  /// Of ptrace(2), with which every thread is traced.
  unsigned options() const { return options_; }

  /// Lets threads run for a moment and stops them again until none is between `start` and `end`
  /// (the vDSO), where it must not be captured. Throws Refusal(cannot_trace) when one never comes
  /// out.
  void leave_range(const Range& range);
  /// Detaches all threads now.
  void detach();

 private:
  void attach_new_threads();
  bool stop_thread(StoppedThread& thread);
  bool leaves(StoppedThread& thread, const Range& range);

  pid_t pid_;
  const std::function<bool()>& interrupted_;
  const unsigned options_;
  std::vector<StoppedThread> threads_;
  int stop_signal_ = 0;
  bool attached_ = true;
  std::map<pid_t, Sleep> sleeps_;
  std::chrono::steady_clock::time_point stopped_at_;
};

/// Why PTRACE_SEIZE of `pid` failed with `errno_value`, in words and with what can be done: gone,
/// zombie, traced by N, someone else's, kernel thread, Yama.
[[noreturn]] void refuse_seize(pid_t pid, int errno_value);

}  // namespace rfork::tracer
