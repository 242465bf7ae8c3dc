#include "session/keep_commit.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "base/tcp_repair.h"
#include "base/tcp_silence.h"
#include "image/connection_holder.h"
#include "session/commit_keeper.h"
#include "session/local_addresses.h"

namespace rfork::session {

namespace {

using image::ReceivedHolderMessage;
using Outcome = CommitKeeper::Outcome;
using Word = image::HolderMessage::Word;

constexpr auto kAskFor = std::chrono::seconds(60);
constexpr auto kAskEvery = std::chrono::milliseconds(500);

struct Held {
  UniqueFd fd;
  int reuse = 0;  ///< SO_REUSEADDR, which repair mode takes away
};

class Keeper {
 public:
  explicit Keeper(KeptCommit commit) : commit_(std::move(commit)) {}
  void run();

 private:
  void take_in(ReceivedHolderMessage& received);
  void conclude(Outcome outcome);
  void decide();
  void let_go_on();
  void await_end_of_original() const;
  void vanish();
  void stay_alone() const;
  void signal_original(int signal) const {
    ::syscall(SYS_pidfd_send_signal, original_.get(), signal, nullptr, 0);
  }

  KeptCommit commit_;
  std::string move_id_;  ///< empty: the commit hasn't begun
  UniqueFd original_;    ///< a pidfd
  pid_t pid_ = 0;        ///< the same, for people
  UniqueFd silence_, addresses_;
  std::vector<Held> held_;
  bool stays_stopped_ = false;  ///< the original, by job control
};

void Keeper::run() {
  while (auto received = image::receive_of_holder(commit_.line.get())) {
    switch (received->message.word) {
      case Word::prepare:
      case Word::hold:
        take_in(*received);
        break;
      case Word::commit:
        pid_ = received->message.number;
        if (received->passed.size() == 1) original_ = std::move(received->passed[0]);
        move_id_.assign(reinterpret_cast<const char*>(received->message.cookies.data()),
                        kMoveIdSize);
        break;
      default:
        return conclude(static_cast<Outcome>(received->message.number));
    }
  }
  if (!move_id_.empty()) return decide();
  if (!silence_) return;
  let_go_on();
}

void Keeper::take_in(ReceivedHolderMessage& received) {
  if (received.message.word == Word::prepare && received.passed.size() == 3) {
    stays_stopped_ = received.message.number != 0;
    original_ = std::move(received.passed[0]);
    silence_ = std::move(received.passed[1]);
    addresses_ = std::move(received.passed[2]);
  } else {
    for (UniqueFd& fd : received.passed) {
      const int reuse = tcp_own_reuse(fd.get());
      held_.push_back({std::move(fd), reuse});
    }
  }
  image::HolderMessage answer;
  (void)image::send_to_holder(commit_.line.get(), answer, {});
}

void Keeper::conclude(Outcome outcome) {
  commit_.line.reset();
  if (held_.empty() || outcome == Outcome::original_goes_on) return;
  stay_alone();
  if (outcome == Outcome::in_doubt) await_end_of_original();
  vanish();
}

// rfork-trace is gone in the middle of the commit.
void Keeper::decide() {
  const auto deadline = std::chrono::steady_clock::now() + kAskFor;
  while (std::chrono::steady_clock::now() < deadline) {
    try {
      const Resolution resolution = commit_.ask(move_id_);
      if (resolution.state == Resolution::State::unknown) break;
      if (resolution.state == Resolution::State::aborted) {
        return let_go_on();
      }
      signal_original(SIGKILL);
      if (held_.empty()) return;
      stay_alone();
      await_end_of_original();
      return vanish();
    } catch (const std::exception&) {
      std::this_thread::sleep_for(kAskEvery);
    }
  }
  std::fputs(fmt::format("rfork-trace: {}\n", commit_.how_to_decide(pid_, move_id_)).c_str(),
             stderr);
  if (held_.empty()) return;
  std::fputs(fmt::format("rfork-trace: {}\n", silence_advice(::getpid())).c_str(), stderr);
  stay_alone();
  await_end_of_original();
  vanish();
}

/// Of a socket that isn't in repair mode nothing changes.
void Keeper::let_go_on() {
  for (const Held& held : held_) (void)tcp_end_repair(held.fd.get(), held.reuse, false);
  // Before anything ends by which others see that we are at it: they may begin again, and their
  // hold must not be undone.
  if (!stays_stopped_) signal_original(SIGCONT);
  held_.clear();
  silence_.reset();
}

void Keeper::await_end_of_original() const {
  pollfd one{original_.get(), POLLIN, 0};
  while (::poll(&one, 1, -1) < 0 && errno == EINTR) {
  }
}

/// The last holder of the sockets closes them without a word; the host has none for what comes
/// then, and would say so (RST), so it is kept silent until that is another's to answer.
void Keeper::vanish() {
  std::vector<TcpTuple> tuples;
  for (const Held& held : held_) {
    if (const auto tuple = tcp_tuple(held.fd.get())) tuples.push_back(*tuple);
  }
  for (const Held& held : held_) (void)tcp_begin_repair(held.fd.get());
  held_.clear();
  await_departure(addresses_.get(), tuples);
}

/// Nobody waits for it any more, and nobody shall have to.
void Keeper::stay_alone() const {
  ::prctl(PR_SET_NAME, "rfork-silence");
  const int null = ::open("/dev/null", O_RDWR);
  for (const int number : {0, 1, 2}) ::dup2(null, number);
  std::set<int> needed{2, original_.get(), silence_.get(), addresses_.get()};
  for (const Held& held : held_) needed.insert(held.fd.get());
  int first = 3;
  for (const int fd : needed) {
    if (fd > first) ::close_range(static_cast<unsigned>(first), static_cast<unsigned>(fd) - 1, 0);
    first = std::max(first, fd + 1);
  }
  ::close_range(static_cast<unsigned>(first), ~0u, 0);
  (void)!::chdir("/");
}

}  // namespace

void keep_commit(KeptCommit commit) {
  Keeper(std::move(commit)).run();
}

std::string silence_advice(pid_t keeper) {
  return fmt::format(
      "process {} keeps its TCP connections silent until it has ended; to let it go on with them, "
      "end that process too",
      keeper);
}

}  // namespace rfork::session
