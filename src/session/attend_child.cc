#include "session/attend_child.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/io.h"
#include "session/agent_door.h"
#include "session/child_reports.h"
#include "session/messages.h"
#include "session/process_group.h"
#include "session/reading.h"
#include "session/waiting_readers.h"

namespace rfork::session {

namespace {

using net::FrameType;
using Clock = std::chrono::steady_clock;

UniqueFd open_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) throw_errno("sigprocmask");
  UniqueFd fd(::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!fd) throw_errno("signalfd");
  return fd;
}

/// Whether the process leaves a signal to its default action.
bool has_default_action(pid_t pid, int signal) {
  const auto status = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/status", pid));
  for (const char* field : {"\nSigIgn:\t", "\nSigCgt:\t"}) {
    const size_t at = status ? status->find(field) : std::string::npos;
    if (at == std::string::npos) return false;
    const uint64_t set = std::stoull(status->substr(at + 9, 16), nullptr, 16);
    if ((set >> (signal - 1) & 1) != 0) return false;
  }
  return true;
}

constexpr int kShortestModesPause = 10, kLongestModesPause = 1'000;  // ms

struct Terminal {
  UniqueFd fd;                      ///< our end
  std::optional<termios2> modes{};  ///< that the origin has been told of
};

class Attendance {
 public:
  Attendance(WorkerContext& worker, const AttendedChild& child, std::vector<RelayEnd> ends);
  void run();

 private:
  void hear_child();
  void hear_ghost();
  void speak();
  void open_door();
  int patience_ms();
  int look_for_readers();
  void note(int wait_status);
  void tell_end();
  bool tell_modes(bool again);
  void look_at_modes(bool something_happened);
  void take(FrameType type, std::span<const std::byte> body);
  void take_signal(const SignalMessage& message);
  void pass_signal(int signal, std::span<const uint8_t> info = {});
  bool type_key(uint32_t terminal, int signal);
  void notice_keys(uint32_t terminal, std::span<const std::byte> keys);
  void lose(const std::string& why);
  void give_up();

  WorkerContext& worker_;
  const AttendedChild& child_;
  ChildReports reports_;
  UniqueFd signals_;
  FramePump pump_;
  Relays relays_;
  std::map<uint32_t, uint64_t> inodes_;       ///< of what the child has, by stream
  std::map<uint32_t, Terminal> terminals_;    ///< by stream
  int modes_pause_ms_ = kShortestModesPause;  ///< before the next look at their modes
  int pause_ms_ = 1;                          ///< before the next look for readers
  Clock::time_point look_far_at_;             ///< among all processes
  bool stop_key_ = false;                     ///< stopped the child, in the kernel's place
  bool ended_ = false;
  std::optional<int> untold_end_;
  std::optional<AgentDoor> door_;
  std::unique_ptr<net::Link> link_;  ///< in the place of the worker's own, which was lost
  std::string lost_because_;
  bool connected_ = true;
  Clock::time_point give_up_at_;  ///< while not connected
  bool given_up_ = false;
};

Attendance::Attendance(WorkerContext& worker, const AttendedChild& child,
                       std::vector<RelayEnd> ends)
    : worker_(worker),
      child_(child),
      reports_(worker.line, child.id),
      signals_(open_signals()),
      pump_(worker.link),
      relays_(pump_, [&child](uint32_t id) { return child.sockets.has(id); }) {
  for (RelayEnd& end : ends) {
    inodes_[end.id] = end.inode_of_child;
    if (end.type == image::Description::RelayType::terminal) {
      terminals_[end.id].fd.reset(::fcntl(end.fd.get(), F_DUPFD_CLOEXEC, 0));
    }
    add_at_destination(relays_, std::move(end));
  }
  if (child_.end_pipe >= 0 && ::fcntl(child_.end_pipe, F_SETFL, O_NONBLOCK) != 0) {
    throw_errno("fcntl(O_NONBLOCK)");
  }
  try {
    door_.emplace(child_.move_id);
  } catch (const Error& error) {
    spdlog::warn("child {} can't wait for a lost ghost: {}", child_.id, error.what());
  }
}

void Attendance::run() {
  std::vector<pollfd> polls;
  hear_child();
  hear_ghost();  // something may have come together with GO, and poll(2) knows nothing of it
  while (!given_up_ && !(ended_ && relays_.all_closed() && pump_.all_confirmed())) {
    polls.clear();
    polls.push_back({signals_.get(), POLLIN, 0});
    polls.push_back({child_.end_pipe, POLLIN, 0});
    polls.push_back({door_ ? door_->fd() : -1, POLLIN, 0});
    const short writes = pump_.wants_write() ? POLLOUT : 0;
    polls.push_back({connected_ ? pump_.link().input() : -1, POLLIN, 0});
    polls.push_back({connected_ ? pump_.link().output() : -1, writes, 0});
    relays_.add_polls(polls);
    const int events = ::poll(polls.data(), polls.size(), patience_ms());
    if (events < 0 && errno != EINTR) throw_errno("poll");
    look_at_modes(events > 0);
    if (polls[0].revents != 0 || polls[1].revents != 0) hear_child();
    relays_.handle(polls);
    if (connected_ && polls[3].revents != 0) hear_ghost();
    if (polls[2].revents != 0) open_door();
    tell_end();
    speak();
    if (!connected_ && Clock::now() >= give_up_at_) give_up();
  }
}

/// How long poll(2) may wait.
int Attendance::patience_ms() {
  if (connected_) {
    const int patience = look_for_readers();
    speak();
    if (terminals_.empty() || ended_) return patience;
    return patience < 0 ? modes_pause_ms_ : std::min(patience, modes_pause_ms_);
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(give_up_at_ - Clock::now());
  return static_cast<int>(std::max<int64_t>(0, left.count()));
}

void Attendance::hear_ghost() {
  const auto taken = [this](FrameType type, std::span<const std::byte> body) { take(type, body); };
  if (const auto loss = pump_.read(taken)) lose(*loss);
}

void Attendance::speak() {
  if (!connected_) return;
  if (const auto loss = pump_.write()) lose(*loss);
}

/// The ghost has a new connection. This side may not know yet that the old one is lost.
void Attendance::open_door() {
  constexpr std::chrono::milliseconds kGreeting{5'000};
  UniqueFd socket = door_->take();
  if (!socket) return;
  try {
    auto link = std::make_unique<net::Link>(net::Transport(std::move(socket)), worker_.link.peer(),
                                            [] { return false; });
    connected_ = true;
    pump_.resume(*link, {kGreeting, "the ghost's state"});
    link_.swap(link);
    spdlog::info("child {} has its ghost again", child_.id);
    hear_ghost();
  } catch (const Refusal& refusal) {
    lose(refusal.what());
  }
}

/// The kernel tells nobody that a program has changed the modes of its terminal. Before it shows by
/// what the program writes it is asked, and from time to time.
void Attendance::look_at_modes(bool something_happened) {
  if (terminals_.empty() || ended_) return;
  if (tell_modes(false) || something_happened) {
    modes_pause_ms_ = kShortestModesPause;
  } else {
    modes_pause_ms_ = std::min(2 * modes_pause_ms_, kLongestModesPause);
  }
}

/// What others at the origin may read too is fetched only for a child that reads. The kernel tells
/// of a wait when it is asked, not by itself: gives how long to wait with poll(2) until the next
/// look.
int Attendance::look_for_readers() {
  constexpr int kLongest = 50;
  constexpr std::chrono::milliseconds kFarLooks{250};
  const std::vector<uint32_t> unwanted = relays_.unwanted();
  const bool unread = relays_.look_whether_read();
  if (unwanted.empty() && !unread) {
    pause_ms_ = 1;
    return -1;
  }
  const bool far = Clock::now() >= look_far_at_;
  for (const uint32_t id : unwanted) {
    size_t bytes = ended_ ? 0 : bytes_wanted(child_.pid, inodes_.at(id));
    if (bytes == 0 && far) bytes = bytes_wanted_by_holders(inodes_.at(id));
    // Who doesn't take what it was given waits for something else.
    if (bytes > 0 && !relays_.has_unread(id)) relays_.want(id, bytes);
  }
  if (far) look_far_at_ = Clock::now() + kFarLooks;
  if (relays_.unwanted().empty() && !unread) return -1;
  pause_ms_ = std::min(2 * pause_ms_, kLongest);
  return pause_ms_;
}

void Attendance::hear_child() {
  signalfd_siginfo signal{};
  while (::read(signals_.get(), &signal, sizeof signal) == sizeof signal) {
  }
  int status = 0;
  if (child_.end_pipe >= 0) {
    while (::read(child_.end_pipe, &status, sizeof status) == sizeof status) note(status);
  }
  rusage usage{};
  constexpr int kChanges = WNOHANG | WUNTRACED | WCONTINUED;
  while (::wait4(child_.wait_pid, &status, kChanges, &usage) > 0) {
    if (WIFEXITED(status) || WIFSIGNALED(status)) reports_.used(usage);
    // What an init says of itself is of use only if it was killed before it could tell of its
    // child.
    if (child_.end_pipe < 0 || WIFSIGNALED(status)) note(status);
  }
}

void Attendance::note(int wait_status) {
  // What the key does to a process of the terminal's own.
  if (std::exchange(stop_key_, false) && WIFSTOPPED(wait_status) &&
      WSTOPSIG(wait_status) == SIGSTOP) {
    wait_status = W_STOPCODE(SIGTSTP);
  }
  if (ended_) return;
  ended_ = WIFEXITED(wait_status) || WIFSIGNALED(wait_status);
  if (ended_) relays_.drain();
  if (ended_ || WIFSTOPPED(wait_status)) tell_modes(true);
  reports_.changed(wait_status);
  if (ended_) {
    untold_end_ = wait_status;
    return tell_end();
  }
  pump_.put(FrameType::child_state, encode(ChildStateMessage{wait_status}));
}

/// Behind all that the child leaves to others: its parent looks for it when it has waited.
void Attendance::tell_end() {
  if (!untold_end_ || relays_.awaits_answer()) return;
  pump_.put(FrameType::child_state, encode(ChildStateMessage{*untold_end_}));
  untold_end_.reset();
}

/// The terminal at the origin behaves as its program has set it, and is given back as it leaves it.
/// Those that were told before are told `again` or not. Whether something was told.
bool Attendance::tell_modes(bool again) {
  bool told = false;
  for (auto& [id, terminal] : terminals_) {
    termios2 modes{};
    if (::ioctl(terminal.fd.get(), TCGETS2, &modes) != 0) continue;
    const bool known = terminal.modes && std::memcmp(&modes, &*terminal.modes, sizeof modes) == 0;
    if (known && !again) continue;
    terminal.modes = modes;
    relays_.tell_modes(id, std::as_bytes(std::span(&modes, 1)));
    told = true;
  }
  return told;
}

void Attendance::take(FrameType type, std::span<const std::byte> body) {
  if (type == FrameType::relay && body.size() > kRelayHeadSize) {
    uint32_t id = 0;
    std::memcpy(&id, body.data(), sizeof id);
    notice_keys(id, body.subspan(kRelayHeadSize));
  }
  if (Relays::takes(type)) return relays_.take(type, body);
  if (type == FrameType::abort) {
    lose("it has none: who asked for it waited no longer");
    give_up_at_ = Clock::now();
    return;
  }
  if (type != FrameType::signal) {
    throw Refusal(Failure::connection_lost, fmt::format("sent {} to a child", net::name_of(type)));
  }
  take_signal(decode<SignalMessage>(body));
}

void Attendance::take_signal(const SignalMessage& message) {
  if (message.orphaned && has_default_action(child_.pid, message.signal)) return;
  if (message.terminal != 0 && type_key(message.terminal, message.signal)) return;
  pass_signal(message.signal, message.info);
}

/// A child is alone in its session, and there the kernel ignores the stop signals of terminals
/// unless they are caught.
void Attendance::pass_signal(int signal, std::span<const uint8_t> info) {
  if (is_terminal_stop(signal) && has_default_action(child_.pid, signal)) {
    signal = SIGSTOP;
    info = {};
  }
  siginfo_t with{};
  const bool whole = info.size() == sizeof with;
  if (whole) std::memcpy(&with, info.data(), sizeof with);
  long failed =
      ::syscall(SYS_pidfd_send_signal, child_.pidfd.get(), signal, whole ? &with : nullptr, 0);
  if (failed != 0 && whole) {  // too many are queued, or it isn't what the kernel lets others say
    failed = ::syscall(SYS_pidfd_send_signal, child_.pidfd.get(), signal, nullptr, 0);
  }
  if (failed == 0) reports_.signalled(signal);
}

/// A key made a signal of at the origin does the same here: who is in the foreground of the child's
/// terminal gets it, and it is echoed. False if no key does that.
bool Attendance::type_key(uint32_t terminal, int signal) {
  const auto found = terminals_.find(terminal);
  termios2 modes{};
  pid_t foreground = 0;
  if (found == terminals_.end() || ::ioctl(found->second.fd.get(), TCGETS2, &modes) != 0 ||
      ::ioctl(found->second.fd.get(), TIOCGPGRP, &foreground) != 0 || foreground <= 0) {
    return false;
  }
  const int which = signal == SIGINT ? VINTR : signal == SIGQUIT ? VQUIT : VSUSP;
  const auto key = static_cast<std::byte>(modes.c_cc[which]);
  if (key == std::byte{0} || ::write(found->second.fd.get(), &key, 1) != 1) return false;
  notice_keys(terminal, std::span(&key, 1));
  return true;
}

/// The key that stops the foreground: the child's terminal sends a signal, which the kernel ignores
/// for a child that is alone in its session. So it is sent from here as well.
void Attendance::notice_keys(uint32_t terminal, std::span<const std::byte> keys) {
  const auto found = terminals_.find(terminal);
  termios2 modes{};
  if (found == terminals_.end() || ::ioctl(found->second.fd.get(), TCGETS2, &modes) != 0) return;
  const auto stop = static_cast<std::byte>(modes.c_cc[VSUSP]);
  if ((modes.c_lflag & ISIG) == 0 || std::ranges::find(keys, stop) == keys.end()) return;
  if (!has_default_action(child_.pid, SIGTSTP)) return;
  stop_key_ = true;
  pass_signal(SIGTSTP);
}

void Attendance::lose(const std::string& why) {
  if (!connected_) return;
  connected_ = false;
  lost_because_ = why;
  give_up_at_ = Clock::now() + (door_ ? child_.linger : std::chrono::seconds(0));
  if (!ended_) spdlog::warn("child {} has lost its ghost: {}", child_.id, visible(why));
}

void Attendance::give_up() {
  given_up_ = true;
  if (ended_) return;
  spdlog::warn("child {} gets SIGHUP: its ghost has not come back", child_.id);
  reports_.lost("its ghost has not come back: " + lost_because_);
  pass_signal(SIGHUP);
  pass_signal(SIGCONT);
}

}  // namespace

void attend_child(WorkerContext& worker, const AttendedChild& child, std::vector<RelayEnd> ends) {
  worker.line.tell(PacketType::attends);
  (void)::signal(SIGPIPE, SIG_IGN);
  Attendance(worker, child, std::move(ends)).run();
}

}  // namespace rfork::session
