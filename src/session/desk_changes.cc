// The part of the desk that minds children that run: what wait(2), the init of a pid namespace and
// attending workers say of them becomes their state and events.
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/clock.h"
#include "session/desk.h"
#include "session/messages.h"

namespace rfork::session {

void Desk::waited(pid_t pid, int wait_status, const ResourceUse& use) {
  Child* const child = children_.by_wait_pid(pid);
  if (child == nullptr || child->info.state < ChildState::running) return;
  const bool ended = WIFEXITED(wait_status) || WIFSIGNALED(wait_status);
  if (child->end_pipe) {
    (void)read_init(*child);
    if (!ended) return;  // the init has stopped, and not the child
  }
  if (ended) {
    child->wait_pid = 0;
    child->info.use = use;
  }
  if (child->info.state == ChildState::running) {
    change(*child, child->told_end.value_or(wait_status));
  }
}

bool Desk::hear_init(const std::string& id) {
  Child* const child = children_.look_up(id);
  return child != nullptr && child->end_pipe && read_init(*child);
}

/// Its last word is kept until the init has ended too: then it is known what the child used.
bool Desk::read_init(Child& child) {
  for (;;) {
    int status = 0;
    const ssize_t n = ::read(child.end_pipe.get(), &status, sizeof status);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return true;
    if (n != sizeof status) return false;
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      child.told_end = status;
    } else {
      change(child, status);
    }
  }
}

/// `wait_status` is the child's own.
void Desk::change(Child& child, int wait_status) {
  if (WIFCONTINUED(wait_status)) {
    tell(child, EventKind::continued);
  } else if (WIFSTOPPED(wait_status)) {
    Event event = event_of(child.info, EventKind::stopped);
    event.signal = WSTOPSIG(wait_status);
    events_.add(std::move(event));
  } else {
    end_child(&child, loader::child_end(wait_status, -1));
  }
}

void Desk::end_child(Child* child, const loader::ChildEnd& end) {
  spdlog::info("child {} ended: {}", child->info.id, describe(end));
  children_.end(*child, end, clock_ns(CLOCK_REALTIME));
  Event event = event_of(child->info, EventKind::ended);
  event.end = end;
  events_.add(std::move(event));
  answer_waits(*child);
  for (const Child& forgotten : children_.take_excess()) forget_log(forgotten);
}

void Desk::attend(WorkerId worker) {
  if (Child* const child = children_.running_of(worker)) child->attended = true;
}

void Desk::take_change(const Packet& packet) {
  const auto report = decode<ChangeReport>(packet.body);
  Child& child = children_.find(report.id);
  if (child.info.state == ChildState::running) change(child, report.wait_status);
}

void Desk::take_signal(const Packet& packet) {
  const auto report = decode<SignalReport>(packet.body);
  tell_signal(children_.find(report.id), report.signal);
}

void Desk::take_loss(const Packet& packet) {
  const auto report = decode<LostReport>(packet.body);
  lose(children_.find(report.id), report.reason);
}

void Desk::take_use(const Packet& packet) {
  const auto report = decode<UseReport>(packet.body);
  Child& child = children_.find(report.id);
  child.info.use = report.use;
  child.wait_pid = 0;
}

void Desk::tell(const Child& child, EventKind kind) {
  events_.add(event_of(child.info, kind));
}

void Desk::tell_signal(const Child& child, int signal) {
  Event event = event_of(child.info, EventKind::signalled);
  event.signal = signal;
  events_.add(std::move(event));
}

void Desk::lose(Child& child, const std::string& reason) {
  constexpr size_t kMost = 200;
  child.attended = false;
  Event event = event_of(child.info, EventKind::lost);
  event.reason = reason.substr(0, kMost);
  events_.add(std::move(event));
}

}  // namespace rfork::session
