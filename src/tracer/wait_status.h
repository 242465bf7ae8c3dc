// What waitpid(2) said of a traced thread, as one type that names every kind of stop (ptrace(2),
// "Stopped states").
#pragma once

#include <sys/ptrace.h>
#include <sys/wait.h>

#include <csignal>

namespace rfork::tracer {

class WaitStatus {
 public:
  enum class Kind {
    exited,
    killed,
    interrupt_stop,        ///< PTRACE_EVENT_STOP without a group-stop: PTRACE_INTERRUPT, or a new
                           ///< thread's first stop
    group_stop,            ///< PTRACE_EVENT_STOP of a process that job control stopped
    syscall_stop,          ///< at entry or exit, PTRACE_O_TRACESYSGOOD
    event_stop,            ///< another PTRACE_EVENT_*
    signal_delivery_stop,  ///< a signal is about to be delivered, and must be given back
  };

  explicit WaitStatus(int raw) : raw_(raw) {}

  Kind kind() const {
    if (WIFEXITED(raw_)) return Kind::exited;
    if (WIFSIGNALED(raw_)) return Kind::killed;
    if (event() == PTRACE_EVENT_STOP) {
      return signal() == SIGTRAP ? Kind::interrupt_stop : Kind::group_stop;
    }
    if (event() != 0) return Kind::event_stop;
    return signal() == (SIGTRAP | 0x80) ? Kind::syscall_stop : Kind::signal_delivery_stop;
  }
  bool gone() const { return WIFEXITED(raw_) || WIFSIGNALED(raw_); }
  /// PTRACE_EVENT_*, 0 when none.
  int event() const { return raw_ >> 16; }
  /// The stop's signal.
  int signal() const { return WSTOPSIG(raw_); }

 private:
  int raw_;
};

}  // namespace rfork::tracer
