#include "session/attend_ghost.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/io.h"
#include "session/messages.h"
#include "session/origin_terminal.h"
#include "tracer/ghost.h"

namespace rfork::session {

namespace {

using net::FrameType;
using tracer::Ghost;

constexpr int kLost = 255;  // exit status of a ghost that has lost its child, as ssh(1)'s

/// Nobody is told that a process which runs has come into the foreground.
constexpr int kForegroundPauseMs = 300;

/// A last word; nobody may be there to read it.
void say(int fd, const std::string& line) {
  if (fd < 0) return;
  [[maybe_unused]] const ssize_t written = ::write(fd, line.data(), line.size());
}

class Attendance {
 public:
  Attendance(net::Link& link, const AttendedGhost& ghost, std::vector<RelayEnd> ends,
             UniqueFd signals);
  void run();

 private:
  void hear_child();
  void speak();
  void hear_ghost();
  void take(FrameType type, std::span<const std::byte> body);
  void take_state(int wait_status);
  void end_ghost();
  void use_terminal(bool ours);
  void lose(const std::string& why);

  net::Link& link_;
  const AttendedGhost& where_;
  UniqueFd signals_;
  Ghost ghost_;
  FramePump pump_;
  Relays relays_;
  uint32_t terminal_id_ = 0;  ///< of the stream
  std::optional<OriginTerminal> terminal_;
  bool waits_for_terminal_ = false;  ///< it runs in the background
  int asked_to_stop_ = SIGSTOP;
  std::optional<int> end_;  ///< of the child, as wait(2) tells
  bool connected_ = true;
};

Attendance::Attendance(net::Link& link, const AttendedGhost& ghost, std::vector<RelayEnd> ends,
                       UniqueFd signals)
    : link_(link),
      where_(ghost),
      signals_(std::move(signals)),
      ghost_(ghost.pid),
      pump_(link),
      relays_(pump_) {
  for (RelayEnd& end : ends) {
    if (end.type == image::Description::RelayType::terminal && end.reads && !terminal_) {
      terminal_.emplace(end.fd.get(), ghost.pid);
      terminal_id_ = end.id;
    }
    add_at_origin(relays_, std::move(end));
  }
  use_terminal(true);
}

/// Only the foreground's programs read a terminal.
void Attendance::use_terminal(bool ours) {
  if (!terminal_) return;
  if (!ours) terminal_->give_back();
  const bool taken = ours && terminal_->take();
  relays_.hold(terminal_id_, !taken);
  waits_for_terminal_ = ours && !taken;
}

void Attendance::run() {
  std::vector<pollfd> polls;
  hear_child();  // what came together with RUNNING is read already, and poll(2) knows nothing of it
  while (connected_ || relays_.has_undelivered()) {
    if (end_ && !ghost_.gone() && !relays_.terminal_is_behind()) end_ghost();
    if (ghost_.gone() && end_ && relays_.all_closed()) return;
    polls.clear();
    polls.push_back({signals_.get(), POLLIN, 0});
    if (connected_) {
      polls.push_back({link_.input(), POLLIN, 0});
      const short writes = pump_.wants_write() ? POLLOUT : 0;
      polls.push_back({link_.output(), writes, 0});
    }
    relays_.add_polls(polls);
    const int pause_ms = waits_for_terminal_ ? kForegroundPauseMs : -1;
    if (::poll(polls.data(), polls.size(), pause_ms) < 0 && errno != EINTR) throw_errno("poll");
    if (waits_for_terminal_) use_terminal(true);
    if (polls[0].revents != 0) hear_ghost();
    relays_.handle(polls);
    if (connected_ && polls[1].revents != 0) hear_child();
    if (connected_) speak();
  }
  if (end_ && !ghost_.gone()) end_ghost();
}

void Attendance::hear_child() {
  try {
    const auto taken = [this](FrameType type, std::span<const std::byte> body) {
      take(type, body);
    };
    if (!pump_.read(taken)) lose("it closed the connection");
  } catch (const Refusal& refusal) {
    lose(refusal.what());
  }
}

void Attendance::speak() {
  try {
    pump_.write();
  } catch (const Refusal& refusal) {
    lose(refusal.what());
  }
}

void Attendance::hear_ghost() {
  signalfd_siginfo signal{};
  while (::read(signals_.get(), &signal, sizeof signal) == sizeof signal) {
  }
  while (const auto event = ghost_.next()) {
    int passed = event->signal;
    if (event->kind == Ghost::Event::Kind::killed) {
      if (end_) return;
      passed = SIGKILL;
    }
    if (passed == SIGSTOP || passed == SIGTSTP || passed == SIGTTIN || passed == SIGTTOU) {
      asked_to_stop_ = passed;
    }
    if (passed == SIGCONT) use_terminal(true);
    if (passed == SIGWINCH && terminal_) {
      if (const auto size = terminal_->window_size()) relays_.tell_window(terminal_id_, *size);
      continue;  // the child's own terminal tells it
    }
    pump_.put(FrameType::signal, encode(SignalMessage{passed}));
  }
}

void Attendance::take(FrameType type, std::span<const std::byte> body) {
  switch (type) {
    case FrameType::relay:
    case FrameType::relay_taken:
    case FrameType::relay_end:
    case FrameType::relay_broken:
    case FrameType::relay_ready:
    case FrameType::relay_wanted:
    case FrameType::relay_window:
      return relays_.take(type, body);
    case FrameType::child_state:
      return take_state(decode<ChildStateMessage>(body).wait_status);
    default:
      throw Refusal(Failure::connection_lost,
                    fmt::format("it sent {} to a ghost", net::name_of(type)));
  }
}

void Attendance::take_state(int wait_status) {
  if (WIFSTOPPED(wait_status)) {
    // The child may have been stopped by SIGSTOP in place of a terminal's signal.
    const int signal = WSTOPSIG(wait_status);
    use_terminal(false);
    ghost_.stop(signal == SIGSTOP ? asked_to_stop_ : signal);
    asked_to_stop_ = SIGSTOP;
  } else if (WIFCONTINUED(wait_status)) {
    ghost_.go_on();
  } else {
    end_ = wait_status;
    use_terminal(false);
  }
}

void Attendance::end_ghost() {
  if (WIFSIGNALED(*end_)) {
    ghost_.die(WTERMSIG(*end_));
  } else {
    ghost_.exit(WEXITSTATUS(*end_));
  }
}

void Attendance::lose(const std::string& why) {
  connected_ = false;
  if (end_) return;
  use_terminal(false);
  say(where_.messages,
      fmt::format("rfork: {}: the connection of process {} to its child is lost: {}\n",
                  where_.there, where_.pid, why));
  end_ = kLost << 8;
}

/// Memory that only a capture needed: an attendant lives long and does little.
void give_memory_back() {
  ::malloc_trim(0);
  const auto maps = try_read_file_at(AT_FDCWD, "/proc/self/maps");
  if (!maps) return;
  for (size_t at = 0; at < maps->size();) {
    const size_t end = std::min(maps->find('\n', at), maps->size());
    const std::string line = maps->substr(at, end - at);
    at = end + 1;
    const size_t dash = line.find('-'), blank = line.find(' ');
    // Code of files: it comes back when it is needed. What is read-only may have been relocated.
    if (line.find('/') == std::string::npos || line.substr(blank + 1, 3) != "r-x") continue;
    const uint64_t first = std::stoull(line.substr(0, dash), nullptr, 16);
    const uint64_t last = std::stoull(line.substr(dash + 1, blank - dash - 1), nullptr, 16);
    ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }
}

/// Nothing of who called is held open: somebody may wait for its end.
void close_all_but(std::set<int> kept) {
  const UniqueFd null = open_or_throw("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) {
    if (!kept.contains(fd)) ::dup2(null.get(), fd);
  }
  for (const int fd : try_list_numbers("/proc/self/fd").value_or(std::vector<int>())) {
    if (fd > 2 && !kept.contains(fd)) ::close(fd);
  }
}

[[noreturn]] void be_attendant(net::Link& link, const AttendedGhost& ghost,
                               std::vector<RelayEnd> ends, UniqueFd report) {
  int code = 0;
  try {
    ::setsid();
    ::prctl(PR_SET_NAME, "rfork-attend");
    (void)::signal(SIGPIPE, SIG_IGN);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) (void)::signal(signal, SIG_DFL);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    UniqueFd child_signals(::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!child_signals) throw_errno("signalfd");
    std::set<int> kept{link.input(), link.output(), child_signals.get(), report.get(),
                       ghost.messages};
    for (const RelayEnd& end : ends) kept.insert(end.fd.get());
    close_all_but(std::move(kept));
    Attendance attendance(link, ghost, std::move(ends), std::move(child_signals));
    const char done = 1;
    [[maybe_unused]] const ssize_t written = ::write(report.get(), &done, 1);
    report.reset();
    give_memory_back();
    attendance.run();
  } catch (const std::exception& error) {
    code = 1;  // the ghost ends with this process
    say(ghost.messages, fmt::format("rfork: the ghost {} of a child on {} ends: {}\n", ghost.pid,
                                    ghost.there, error.what()));
  }
  ::_exit(code);
}

}  // namespace

void start_attending(net::Link& link, const AttendedGhost& ghost, std::vector<RelayEnd> ends) {
  int ends_of_report[2];
  if (::pipe2(ends_of_report, O_CLOEXEC) != 0) throw_errno("pipe2");
  const UniqueFd reader(ends_of_report[0]);
  UniqueFd writer(ends_of_report[1]);
  const pid_t attendant = ::fork();
  if (attendant < 0) throw_errno("fork");
  if (attendant == 0) be_attendant(link, ghost, std::move(ends), std::move(writer));
  writer.reset();
  char done = 0;
  if (::read(reader.get(), &done, 1) == 1) return;
  ::waitpid(attendant, nullptr, 0);
  ::kill(ghost.pid, SIGKILL);
  throw Error("attend to the ghost", ESRCH, std::to_string(ghost.pid));
}

}  // namespace rfork::session
