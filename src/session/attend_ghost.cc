#include "session/attend_ghost.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/io.h"
#include "session/messages.h"
#include "session/open_link.h"
#include "session/origin_terminal.h"
#include "session/own_memory.h"
#include "session/process_group.h"
#include "tracer/ghost.h"

namespace rfork::session {

namespace {

using net::FrameType;
using tracer::Ghost;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kFirstPause{50};  // between tries to connect again
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
  void say_goodbye();
  void hear_ghost();
  void pass_on(const Ghost::Event& event);
  int patience_ms(int next_look) const;
  void rest();
  void take(FrameType type, std::span<const std::byte> body);
  void take_modes(std::span<const std::byte> body);
  void take_state(int wait_status);
  void end_ghost();
  void use_terminal(bool ours);
  void lose(const std::string& why);
  void reconnect();
  void give_up(const std::string& why);

  const AttendedGhost& where_;
  UniqueFd signals_;
  Ghost ghost_;
  FramePump pump_;
  Relays relays_;
  uint32_t terminal_id_ = 0;  ///< of the stream
  std::optional<OriginTerminal> terminal_;
  bool waits_for_terminal_ = false;  ///< it runs in the background
  int asked_to_stop_ = SIGSTOP;
  std::optional<int> end_;           ///< of the child, as wait(2) tells
  std::unique_ptr<net::Link> link_;  ///< in the place of the first one, which was lost
  bool connected_ = true;
  // While not connected.
  std::string why_lost_;
  Clock::time_point try_at_, give_up_at_;
  std::chrono::milliseconds pause_ = kFirstPause;
  bool given_up_ = false;
  bool rests_ = false;
};

Attendance::Attendance(net::Link& link, const AttendedGhost& ghost, std::vector<RelayEnd> ends,
                       UniqueFd signals)
    : where_(ghost),
      signals_(std::move(signals)),
      ghost_(ghost.pid, ghost.carried),
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
  while (!given_up_ || relays_.has_undelivered()) {
    if (end_ && !ghost_.gone() && !relays_.terminal_is_behind()) end_ghost();
    if (ghost_.gone() && end_ && relays_.all_closed()) break;
    polls.clear();
    polls.push_back({signals_.get(), POLLIN, 0});
    const short writes = pump_.wants_write() ? POLLOUT : 0;
    polls.push_back({connected_ ? pump_.link().input() : -1, POLLIN, 0});
    polls.push_back({connected_ ? pump_.link().output() : -1, writes, 0});
    const int next_look = relays_.look_who_shares();
    relays_.add_polls(polls);
    const int events = ::poll(polls.data(), polls.size(), patience_ms(next_look));
    if (events < 0 && errno != EINTR) throw_errno("poll");
    if (events != 0) rests_ = false;
    if (events == 0 && !rests_ && next_look < 0) rest();
    if (terminal_ && terminal_->lost()) {
      use_terminal(false);
      waits_for_terminal_ = true;
    } else if (waits_for_terminal_) {
      use_terminal(true);
    }
    if (polls[0].revents != 0) hear_ghost();
    relays_.handle(polls);
    if (connected_ && polls[1].revents != 0) hear_child();
    if (!connected_ && !given_up_ && Clock::now() >= try_at_) reconnect();
    speak();
  }
  if (end_ && !ghost_.gone()) end_ghost();
  say_goodbye();
}

/// How long poll(2) may wait; `next_look` as Relays::look_who_shares() gives it.
int Attendance::patience_ms(int next_look) const {
  constexpr int kUntilRest = 500;
  if (waits_for_terminal_) return kForegroundPauseMs;
  if (connected_ || given_up_) {
    if (next_look >= 0) return next_look;
    return rests_ ? -1 : kUntilRest;
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(try_at_ - Clock::now());
  return static_cast<int>(std::max<int64_t>(0, left.count()));
}

/// Nothing has happened for a while, and maybe nothing will for long.
void Attendance::rest() {
  if (!connected_) return;
  pump_.give_memory_back();
  give_memory_back();
  rests_ = true;
}

void Attendance::hear_child() {
  const auto taken = [this](FrameType type, std::span<const std::byte> body) { take(type, body); };
  if (const auto loss = pump_.read(taken)) lose(*loss);
  if (end_) pump_.confirm();  // the child's agent waits for it
}

void Attendance::speak() {
  if (!connected_) return;
  if (const auto loss = pump_.write()) lose(*loss);
}

/// The child's agent may end now. If it isn't told it ends later.
void Attendance::say_goodbye() {
  constexpr int kPatience = 1'000;  // ms
  speak();
  while (connected_ && pump_.wants_write()) {
    pollfd output{pump_.link().output(), POLLOUT, 0};
    if (::poll(&output, 1, kPatience) <= 0) return;
    speak();
  }
}

void Attendance::lose(const std::string& why) {
  if (!connected_) return;
  connected_ = false;
  why_lost_ = why;
  pause_ = kFirstPause;
  try_at_ = Clock::now();
  give_up_at_ = try_at_ + where_.linger;
  if (where_.linger == std::chrono::seconds(0)) give_up(why);
}

/// Tries once to get the connection back.
void Attendance::reconnect() {
  constexpr std::chrono::milliseconds kOneTry{5'000}, kLongestPause{2'000};
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(give_up_at_ - Clock::now());
  Endpoint endpoint = where_.endpoint;
  const auto patience = std::clamp(left, kFirstPause, kOneTry);
  endpoint.deadlines.connect = endpoint.deadlines.handshake = patience;
  try {
    auto link = std::make_unique<net::Link>(reach_agent(endpoint, where_.move_id));
    connected_ = true;
    pump_.resume(*link, {patience, "the child's state"});
    link_.swap(link);
    hear_child();
    return;
  } catch (const Refusal& refusal) {
    connected_ = false;
    if (refusal.failure() == Failure::destination_refused) return give_up(refusal.what());
  } catch (const std::exception&) {
    connected_ = false;
  }
  if (Clock::now() >= give_up_at_) return give_up(why_lost_);
  try_at_ = Clock::now() + pause_;
  pause_ = std::min(2 * pause_, kLongestPause);
}

void Attendance::give_up(const std::string& why) {
  connected_ = false;
  if (given_up_) return;
  given_up_ = true;
  if (end_) return;
  if (terminal_) terminal_->give_back_as_found();
  use_terminal(false);
  say(where_.messages,
      fmt::format("rfork: {}: the connection of process {} to its child is lost: {}\n",
                  where_.there, where_.pid, why));
  end_ = kLost << 8;
}

void Attendance::hear_ghost() {
  signalfd_siginfo signal{};
  while (::read(signals_.get(), &signal, sizeof signal) == sizeof signal) {
  }
  while (const auto event = ghost_.next()) {
    if (event->kind == Ghost::Event::Kind::killed) {
      if (end_) return;
      SignalMessage kill;
      kill.signal = SIGKILL;
      pump_.put(FrameType::signal, encode(kill));
    } else if (event->signal == SIGWINCH && terminal_) {
      // The child's own terminal tells it.
      if (const auto size = terminal_->window_size()) relays_.tell_window(terminal_id_, *size);
    } else {
      pass_on(*event);
    }
  }
}

/// What the kernel lets only a process say of itself is left out: the child gets a plain signal.
void Attendance::pass_on(const Ghost::Event& event) {
  SignalMessage message;
  message.signal = event.signal;
  const siginfo_t& info = event.info;
  if (info.si_code < 0 && info.si_code != SI_TKILL) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&info);
    message.info.assign(bytes, bytes + sizeof info);
  }
  const bool key = event.signal == SIGINT || event.signal == SIGQUIT || event.signal == SIGTSTP;
  if (key && info.si_code == SI_KERNEL && terminal_ && terminal_->taken()) {
    message.terminal = terminal_id_;
  }
  const bool may_be_caught = is_terminal_stop(event.signal);
  message.orphaned = may_be_caught && in_orphaned_group(where_.pid);
  if (event.signal == SIGSTOP || (may_be_caught && !message.orphaned)) {
    asked_to_stop_ = event.signal;
  }
  if (event.signal == SIGCONT) use_terminal(true);
  pump_.put(FrameType::signal, encode(message));
}

void Attendance::take(FrameType type, std::span<const std::byte> body) {
  try {
    if (Relays::takes(type)) return relays_.take(type, body);
    if (type == FrameType::relay_modes) return take_modes(body);
    if (type != FrameType::child_state) {
      throw Refusal(Failure::connection_lost,
                    fmt::format("it sent {} to a ghost", net::name_of(type)));
    }
    take_state(decode<ChildStateMessage>(body).wait_status);
  } catch (const Refusal& refusal) {
    give_up(refusal.what());  // it would say the same again
  }
}

void Attendance::take_modes(std::span<const std::byte> body) {
  termios2 modes{};
  uint32_t id = 0;
  if (body.size() != kRelayHeadSize + sizeof modes) {
    throw Refusal(Failure::connection_lost, "RELAY_MODES has another size");
  }
  std::memcpy(&id, body.data(), sizeof id);
  std::memcpy(&modes, body.data() + kRelayHeadSize, sizeof modes);
  if (terminal_ && id == terminal_id_) terminal_->set_modes(modes);
}

void Attendance::take_state(int wait_status) {
  if (WIFSTOPPED(wait_status)) {
    // The child may have been stopped by SIGSTOP in place of a terminal's signal.
    int signal = std::exchange(asked_to_stop_, SIGSTOP);
    if (WSTOPSIG(wait_status) != SIGSTOP) signal = WSTOPSIG(wait_status);
    if (is_terminal_stop(signal) && in_orphaned_group(where_.pid)) signal = SIGSTOP;
    use_terminal(false);
    ghost_.stop(signal);
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
