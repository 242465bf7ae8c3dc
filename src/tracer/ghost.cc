#include "tracer/ghost.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/io.h"
#include "tracer/proc_text.h"
#include "tracer/ptrace.h"
#include "tracer/seccomp.h"
#include "tracer/stopped_process.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kSystemCallSize = 2;
/// Brings a stop: a stop signal itself would take a SIGCONT that somebody has just sent out of the
/// queue, and the child would never hear of it.
const int kCarrier = SIGRTMAX;
constexpr auto kPatience = std::chrono::seconds(5);

bool is_own(const siginfo_t& info) {
  return (info.si_code == SI_USER || info.si_code == SI_TKILL) && info.si_pid == ::getpid();
}

bool sigcont_is_pending(pid_t tid) {
  for (const bool shared : {true, false}) {
    for (const image::PendingSignal& pending : pending_signals(tid, shared)) {
      siginfo_t info;
      std::memcpy(&info, pending.data(), sizeof info);
      if (info.si_signo == SIGCONT) return true;
    }
  }
  return false;
}

/// Whether it has been told of every signal that waited when it was made.
bool sleeps(pid_t pid) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/stat", pid));
  return text && parse_stat_fields(*text).front() == "S";
}

bool is_stop(int signal) {
  return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

}  // namespace

Ghost::Ghost(pid_t pid, CarriedSignals carried) : pid_(pid), carried_(std::move(carried)) {
  if (const int error =
          try_seize(pid, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | seccomp_option(pid));
      error != 0) {
    refuse_seize(pid, error);
  }
  to_a_stop();
  const user_regs_struct regs = registers(pid);
  system_call_ = regs.rip - (static_cast<int64_t>(regs.orig_rax) >= 0 ? kSystemCallSize : 0);
  set_signal_mask(pid, 0);
  resume(pid, PTRACE_CONT);
}

Ghost::~Ghost() {
  if (!gone_) ::kill(pid_, SIGKILL);
}

/// Into any ptrace-stop; a signal that is about to be delivered on the way is lost, for its end is
/// near.
void Ghost::to_a_stop() {
  interrupt(pid_);
  for (;;) {
    const auto status =
        wait_for(pid_, std::chrono::duration_cast<std::chrono::milliseconds>(kPatience));
    if (!status) throw Error("stop the ghost", ETIMEDOUT, std::to_string(pid_));
    if (status->gone()) {
      gone_ = true;
      throw ProcessGone(pid_);
    }
    if (status->kind() == WaitStatus::Kind::interrupt_stop ||
        status->kind() == WaitStatus::Kind::group_stop) {
      return;
    }
    resume(pid_, PTRACE_CONT);
  }
}

bool Ghost::handle_stop(int raw_status, std::optional<Event>& event) {
  const WaitStatus status(raw_status);
  switch (status.kind()) {
    case WaitStatus::Kind::exited:
    case WaitStatus::Kind::killed:
      gone_ = true;
      event = Event{Event::Kind::killed, WIFSIGNALED(raw_status) ? WTERMSIG(raw_status) : 0};
      return true;
    case WaitStatus::Kind::group_stop:
      resume(pid_, PTRACE_LISTEN);
      return false;
    case WaitStatus::Kind::signal_delivery_stop: {
      const int signal = status.signal();
      siginfo_t info{};
      const bool known = ::ptrace(PTRACE_GETSIGINFO, pid_, nullptr, &info) == 0;
      const bool own = known && is_own(info);
      // SIGCONT may also come from now on: then the kernel doesn't stop it.
      if (own && signal == kCarrier && sigcont_is_pending(pid_)) stopped_ = false;
      const bool stops = own && stopped_ && signal == kCarrier;
      resume(pid_, PTRACE_CONT, stops ? stop_signal_ : 0);
      if (own || (known && (carried_.is_of_timer(info) || carried_.take(info)))) return false;
      event = Event{Event::Kind::signal, signal, info};
      if (stopped_ && (signal == SIGCONT || is_stop(signal))) {
        // The kernel let it go on when somebody sent SIGCONT. A stop signal that came right behind
        // took that out of the queue; but for the child there has to be something to stop.
        stopped_ = false;
        if (signal != SIGCONT) after_ = std::exchange(event, Event{Event::Kind::signal, SIGCONT});
      }
      return true;
    }
    case WaitStatus::Kind::interrupt_stop:
    case WaitStatus::Kind::syscall_stop:
    case WaitStatus::Kind::event_stop:
      resume(pid_, PTRACE_CONT);
      return false;
  }
  return false;
}

std::optional<Ghost::Event> Ghost::next() {
  std::optional<Event> event = std::exchange(after_, std::nullopt);
  if (event) return event;
  while (!gone_) {
    int status = 0;
    const pid_t got = ::waitpid(pid_, &status, __WALL | WNOHANG);
    if (got <= 0) {
      // What comes from now on may look the same, and is none of them.
      if (carried_.any() && sleeps(pid_)) carried_ = {};
      return std::nullopt;
    }
    try {
      if (handle_stop(status, event)) return event;
    } catch (const ProcessGone&) {
      // Killed in between: the next wait says how.
    }
  }
  return std::nullopt;
}

void Ghost::stop(int signal) {
  if (gone_ || stopped_) return;
  stopped_ = true;
  stop_signal_ = signal;
  ::syscall(SYS_tgkill, pid_, pid_, kCarrier);
}

void Ghost::go_on() {
  if (gone_ || !stopped_) return;
  stopped_ = false;
  ::kill(pid_, SIGCONT);
}

void Ghost::exit(int status) {
  if (gone_) return;
  try {
    to_a_stop();
    user_regs_struct regs = registers(pid_);
    regs.rip = system_call_;
    regs.rax = SYS_exit_group;
    regs.orig_rax = ~uint64_t{0};
    regs.rdi = static_cast<uint64_t>(status);
    set_registers(pid_, regs);
    do {
      resume(pid_, PTRACE_CONT);
    } while (!wait_for(pid_).gone());
  } catch (const ProcessGone&) {
    // Somebody killed it first.
  }
  gone_ = true;
}

void Ghost::die(int signal) {
  if (gone_) return;
  try {
    if (stopped_) {
      stopped_ = false;
      ::kill(pid_, SIGCONT);
    }
    ::syscall(SYS_tgkill, pid_, pid_, signal);
    for (;;) {
      const WaitStatus status = wait_for(pid_);
      if (status.gone()) break;
      const bool it =
          status.kind() == WaitStatus::Kind::signal_delivery_stop && status.signal() == signal;
      resume(pid_, PTRACE_CONT, it ? signal : 0);
    }
  } catch (const ProcessGone&) {
    // Somebody killed it first.
  }
  gone_ = true;
}

}  // namespace rfork::tracer
