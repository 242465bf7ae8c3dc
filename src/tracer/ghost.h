// The process that stands in, at the origin, for a child on another host: it has the pid that
// others know, does nothing, and is traced by who acts for it.
//
// A tracer sees every signal before it is delivered, SIGSTOP too, in order and with its sender; a
// process by itself never learns that it was stopped. And it can end its tracee as the child ended,
// so the parent's wait(2) tells the truth. The ghost ends if its tracer does (PTRACE_O_EXITKILL).
//
// Rejected: a program that forwards from signal handlers (blind to SIGSTOP), exec of a small
// program in the original's place (a path that a chroot may lack; the original's own empty address
// space is smaller).
#pragma once

#include <sys/types.h>

#include <csignal>
#include <cstdint>
#include <optional>

#include "tracer/carried_signals.h"

namespace rfork::tracer {

class Ghost {
 public:
  /// Seizes `pid`, which waits in pause(2) with all signals blocked, and unblocks them; next()
  /// doesn't tell of those that were `carried`. All calls from the thread that built it. Throws
  /// Refusal(cannot_trace), ProcessGone, Error.
  explicit Ghost(pid_t pid, CarriedSignals carried = {});
  /// Ends the process if it has not ended.
  ~Ghost();
  Ghost(const Ghost&) = delete;
  Ghost& operator=(const Ghost&) = delete;

  pid_t pid() const { return pid_; }
  bool gone() const { return gone_; }

  struct Event {
    enum class Kind { signal, killed } kind = Kind::signal;
    int signal = 0;    ///< that somebody sent it, or that killed it
    siginfo_t info{};  ///< of the one that was sent
  };
  /// What happened to it meanwhile; to be asked after each SIGCHLD until there is nothing more.
  std::optional<Event> next();

  /// It stops, as by `signal`, and its parent sees that.
  void stop(int signal);
  /// It goes on.
  void go_on();
  /// It exits with `status`; returns when it has.
  void exit(int status);
  /// It dies of `signal`; returns when it has.
  void die(int signal);

 private:
  bool handle_stop(int raw_status, std::optional<Event>& event);
  void to_a_stop();

  pid_t pid_;
  CarriedSignals carried_;
  uint64_t system_call_ = 0;  ///< address of a syscall instruction
  bool gone_ = false;
  int stop_signal_ = 0;
  bool stopped_ = false;        ///< by stop(), and nobody has sent SIGCONT since
  std::optional<Event> after_;  ///< what next() gives next
};

}  // namespace rfork::tracer
