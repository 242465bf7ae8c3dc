// How a capture ends for the original: it goes on, is left stopped, or ends.
#include <sys/ptrace.h>
#include <sys/socket.h>

#include <csignal>
#include <string>
#include <vector>

#include "base/error.h"
#include "tracer/capture_state.h"
#include "tracer/ipc_namespace.h"
#include "tracer/ptrace.h"

namespace rfork::tracer {

// Those of the original with itself. An end that is closed so is gone at once and leaves nothing
// behind (TIME_WAIT), so that the child can have its port.
void Capture::State::forget_connections() {
  const linger at_once{1, 0};
  for (UniqueFd& end : inventory.connections) {
    ::setsockopt(end.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    end.reset();
  }
}

// The signal stays pending while the threads are in ptrace's stop. If we die, each thread looks for
// signals before it runs on, the first finds this one, and job control stops them all.
void Capture::State::hold() {
  if (!stopped || held || stopped->stop_signal() != 0) return;
  if (::kill(pid, SIGSTOP) != 0) throw_errno("kill(SIGSTOP)", std::to_string(pid));
  held = true;
}

/// Takes the stop signal back: a thread that runs on meets it before its next instruction. Signals
/// that came meanwhile may stand before it, and are delivered as they would be.
void Capture::State::take_back_hold() {
  if (!stopped || !held) return;
  for (int signal = 0;;) {
    resume(pid, PTRACE_CONT, signal);
    const WaitStatus status = wait_for(pid);
    if (status.gone()) throw ProcessGone(pid);
    const bool delivered = status.kind() == WaitStatus::Kind::signal_delivery_stop;
    if (delivered && status.signal() == SIGSTOP) break;
    signal = delivered ? status.signal() : 0;
  }
  held = false;
}

void Capture::hold_original() {
  state_->hold();
}

void Capture::end_original() {
  State& state = *state_;
  if (!state.stopped) return;
  state.paused = paused();
  note_losses();
  if (::kill(state.pid, SIGKILL) != 0) throw_errno("kill(SIGKILL)", std::to_string(state.pid));
  // The leader is reported after all others.
  const std::vector<StoppedThread> threads = state.stopped->threads();
  for (auto thread = threads.rbegin(); thread != threads.rend(); ++thread) {
    try {
      while (!wait_for(thread->tid).gone()) {
      }
    } catch (const ProcessGone&) {
      // Already gone.
    }
  }
  state.stopped.reset();
  state.remove_own_segments();
  state.forget_connections();
}

/// What it made itself has gone along, and nobody else would ever remove it here.
void Capture::State::remove_own_segments() const {
  for (const image::Object& object : inventory.objects) {
    if (!object.segment || object.segment->removed || object.segment->creator != pid) continue;
    try {
      inventory.ipc_namespace->remove_unused(*object.segment);
    } catch (const Error&) {
      // The process has moved all the same.
    }
  }
}

void Capture::release() {
  State& state = *state_;
  if (!state.stopped) return;
  state.take_back_hold();
  state.let_go();
}

void Capture::leave_stopped() {
  State& state = *state_;
  if (!state.stopped) return;
  if (!state.held) hold_original();
  state.let_go();
}

}  // namespace rfork::tracer
