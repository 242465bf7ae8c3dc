#include "session/attach.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <deque>
#include <thread>

#include "base/error.h"
#include "base/unique_fd.h"
#include "session/control.h"

namespace rfork::session {

namespace {

using Clock = std::chrono::steady_clock;

bool stops(int signal) {
  return signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/// Signals of this process, kept from it while the object lives.
class OwnSignals {
 public:
  OwnSignals() {
    sigset_t caught;
    sigfillset(&caught);
    // Of this process's own doing, and nobody's to pass on.
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGPIPE,
                             SIGCHLD, SIGWINCH, SIGURG}) {
      sigdelset(&caught, signal);
    }
    if (::sigprocmask(SIG_BLOCK, &caught, &former_) != 0) throw_errno("sigprocmask");
    fd_.reset(::signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!fd_) throw_errno("signalfd");
  }
  ~OwnSignals() { ::sigprocmask(SIG_SETMASK, &former_, nullptr); }
  OwnSignals(const OwnSignals&) = delete;
  OwnSignals& operator=(const OwnSignals&) = delete;

  /// The next one; 0: none has come.
  int next() {
    signalfd_siginfo signal{};
    const bool one = ::read(fd_.get(), &signal, sizeof signal) == sizeof signal;
    return one ? static_cast<int>(signal.ssi_signo) : 0;
  }

 private:
  sigset_t former_{};
  UniqueFd fd_;
};

class Attachment {
 public:
  Attachment(Endpoint endpoint, const std::string& id, const AttachOptions& options)
      : endpoint_(std::move(endpoint)), asking_(endpoint_), id_(id), options_(options) {
    // Asked every 50 ms while anything is waited for.
    endpoint_.interrupted = [this] {
      pass_signals();
      return false;
    };
    asking_.interrupted = [] { return false; };
  }
  ChildInfo run();

 private:
  void pass_signals();

  Endpoint endpoint_;
  Endpoint asking_;  ///< for questions in the middle of another
  const std::string& id_;
  const AttachOptions& options_;
  OwnSignals signals_;
  std::deque<int> waiting_;  ///< signals that the daemon hasn't got yet
  uint64_t given_ = 0;       ///< bytes of output
};

/// Throws Refusal(connection_lost), and they wait then.
void Attachment::pass_signals() {
  while (const int signal = signals_.next()) waiting_.push_back(signal);
  while (!waiting_.empty()) {
    const int signal = waiting_.front();
    try {
      // A child is alone in its session, where a terminal's stop does nothing.
      send_signal(asking_, id_, stops(signal) ? SIGSTOP : signal);
    } catch (const Refusal& refusal) {
      if (refusal.failure() == Failure::connection_lost) throw;  // else it has ended
    }
    waiting_.pop_front();
    if (stops(signal)) ::raise(SIGSTOP);
  }
}

ChildInfo Attachment::run() {
  constexpr std::chrono::milliseconds kPause{500};
  auto reached = Clock::now();
  for (;;) {
    try {
      read_log(endpoint_, {id_, true, given_}, [&](std::span<const std::byte> bytes) {
        reached = Clock::now();
        given_ += bytes.size();
        options_.output(bytes);
      });
      return wait_for_child(endpoint_, id_);
    } catch (const Refusal& refusal) {
      if (refusal.failure() != Failure::connection_lost) throw;
      if (Clock::now() - reached > options_.linger) throw;
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

ChildInfo attach(const Endpoint& endpoint, const std::string& id, const AttachOptions& options) {
  return Attachment(endpoint, id, options).run();
}

}  // namespace rfork::session
