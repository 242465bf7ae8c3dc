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
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/io.h"
#include "session/messages.h"
#include "session/reading.h"

namespace rfork::session {

namespace {

using net::FrameType;

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

class Attendance {
 public:
  Attendance(WorkerContext& worker, const AttendedChild& child, std::vector<RelayEnd> ends);
  void run();

 private:
  void hear_child();
  int look_for_readers();
  void note(int wait_status);
  void take(FrameType type, std::span<const std::byte> body);
  void pass_signal(int signal);
  void notice_keys(std::span<const std::byte> relayed);
  void lose(const std::string& why);

  WorkerContext& worker_;
  const AttendedChild& child_;
  UniqueFd signals_;
  FramePump pump_;
  Relays relays_;
  std::map<uint32_t, uint64_t> inodes_;  ///< of what the child has, by stream
  std::map<uint32_t, int> terminals_;    ///< our ends, by stream
  int pause_ms_ = 1;                     ///< before the next look for readers
  bool stop_key_ = false;                ///< stopped the child, in the kernel's place
  bool ended_ = false;
  bool connected_ = true;
};

Attendance::Attendance(WorkerContext& worker, const AttendedChild& child,
                       std::vector<RelayEnd> ends)
    : worker_(worker), child_(child), signals_(open_signals()), pump_(worker.link), relays_(pump_) {
  for (RelayEnd& end : ends) {
    inodes_[end.id] = end.inode_of_child;
    if (end.type == image::Description::RelayType::terminal) terminals_[end.id] = end.fd.get();
    add_at_destination(relays_, std::move(end));
  }
  if (child_.end_pipe >= 0 && ::fcntl(child_.end_pipe, F_SETFL, O_NONBLOCK) != 0) {
    throw_errno("fcntl(O_NONBLOCK)");
  }
}

void Attendance::run() {
  std::vector<pollfd> polls;
  bool first = true;
  hear_child();
  while (connected_ && !(ended_ && relays_.all_closed() && !pump_.wants_write())) {
    const bool writes = pump_.wants_write();
    polls.clear();
    polls.push_back({signals_.get(), POLLIN, 0});
    polls.push_back({child_.end_pipe, POLLIN, 0});
    polls.push_back({worker_.link.input(), POLLIN, 0});
    polls.push_back({worker_.link.output(), static_cast<short>(writes ? POLLOUT : 0), 0});
    relays_.add_polls(polls);
    if (::poll(polls.data(), polls.size(), first ? 0 : look_for_readers()) < 0 && errno != EINTR)
      throw_errno("poll");
    try {
      if (polls[0].revents != 0 || polls[1].revents != 0) hear_child();
      relays_.handle(polls);
      const auto taken = [this](FrameType type, std::span<const std::byte> body) {
        take(type, body);
      };
      // The first time whatever poll(2) says: something may have come together with GO.
      if ((polls[2].revents != 0 || first) && !pump_.read(taken)) lose("closed");
      first = false;
      pump_.write();
    } catch (const Refusal& refusal) {
      lose(refusal.what());
    }
  }
}

/// What others at the origin may read too is fetched only for a child that reads. The kernel tells
/// of a wait when it is asked, not by itself: gives how long to wait with poll(2) until the next
/// look.
int Attendance::look_for_readers() {
  constexpr int kLongest = 50;
  const std::vector<uint32_t> unwanted = relays_.unwanted();
  if (unwanted.empty() || ended_) {
    pause_ms_ = 1;
    return -1;
  }
  for (const uint32_t id : unwanted) {
    if (somebody_reads(child_.pid, inodes_.at(id))) relays_.want(id);
  }
  pump_.write();
  if (relays_.unwanted().empty()) return -1;
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
  while (::waitpid(child_.wait_pid, &status, WNOHANG | WUNTRACED | WCONTINUED) > 0) {
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
  if (ended_) {
    relays_.drain();
    try {
      worker_.line.tell(PacketType::ended, encode(EndedReport{child_.id, wait_status}));
    } catch (const std::exception&) {
      // The daemon has ended; the ghost is told all the same.
    }
  }
  pump_.put(FrameType::child_state, encode(ChildStateMessage{wait_status}));
}

void Attendance::take(FrameType type, std::span<const std::byte> body) {
  switch (type) {
    case FrameType::relay:
      if (body.size() > kRelayHeadSize) notice_keys(body);
      return relays_.take(type, body);
    case FrameType::relay_taken:
    case FrameType::relay_end:
    case FrameType::relay_broken:
    case FrameType::relay_ready:
    case FrameType::relay_wanted:
    case FrameType::relay_window:
      return relays_.take(type, body);
    case FrameType::signal:
      return pass_signal(decode<SignalMessage>(body).signal);
    default:
      throw Refusal(Failure::connection_lost,
                    fmt::format("sent {} to a child", net::name_of(type)));
  }
}

/// A child is alone in its session, and there the kernel ignores the stop signals of terminals
/// unless they are caught.
void Attendance::pass_signal(int signal) {
  const bool of_terminal = signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
  if (of_terminal && has_default_action(child_.pid, signal)) signal = SIGSTOP;
  ::syscall(SYS_pidfd_send_signal, child_.pidfd.get(), signal, nullptr, 0);
}

/// The key that stops the foreground: the child's terminal sends a signal, which the kernel ignores
/// for a child that is alone in its session. So it is sent from here as well.
void Attendance::notice_keys(std::span<const std::byte> relayed) {
  uint32_t id = 0;
  std::memcpy(&id, relayed.data(), sizeof id);
  const auto terminal = terminals_.find(id);
  termios2 modes{};
  if (terminal == terminals_.end() || ::ioctl(terminal->second, TCGETS2, &modes) != 0) return;
  const auto keys = relayed.subspan(kRelayHeadSize);
  const auto stop = static_cast<std::byte>(modes.c_cc[VSUSP]);
  if ((modes.c_lflag & ISIG) == 0 || std::ranges::find(keys, stop) == keys.end()) return;
  if (!has_default_action(child_.pid, SIGTSTP)) return;
  stop_key_ = true;
  pass_signal(SIGTSTP);
}

void Attendance::lose(const std::string& why) {
  connected_ = false;
  if (ended_) return;
  spdlog::warn("child {} has lost its ghost, and gets SIGHUP: {}", child_.id, visible(why));
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
