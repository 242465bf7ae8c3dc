// The life of a holder of TCP connections: connection_holder.h. It runs only when somebody speaks
// to it, whatever the connections do.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <map>
#include <set>
#include <utility>

#include "base/socket_option.h"
#include "image/connection_holder.h"
#include "session/connection_holder.h"

namespace rfork::session {

namespace {

using image::HolderMessage;
using image::ReceivedHolderMessage;
using Why = HolderMessage::Why;
using Word = HolderMessage::Word;

constexpr int kLine = 3, kListening = 4;

class Holder {
 public:
  Holder(UniqueFd line, UniqueFd listening)
      : line_(std::move(line)), listening_(std::move(listening)) {}
  /// While rfork-trace lives and has not committed. False: there is nothing to hold.
  bool obey();
  /// Until all are taken on.
  void serve();

 private:
  bool take_in(ReceivedHolderMessage& received);
  bool prepare(ReceivedHolderMessage& received);
  bool commit();
  void meet_next();
  void hear_taker();
  void give(const HolderMessage& wanted);
  void refuse(int socket, Why why, int number = 0) const;
  /// Ends what the taker has begun; what was given to it and not taken is held again.
  void forget_taker();

  UniqueFd line_, listening_;
  UniqueFd original_;                  ///< a pidfd
  bool stays_stopped_ = false;         ///< by job control
  uid_t owner_ = 0;                    ///< of the process that had the sockets
  std::map<uint64_t, UniqueFd> held_;  ///< by SO_COOKIE
  UniqueFd taker_;
  std::set<uint64_t> given_;  ///< to the taker
};

void answer(int socket, Word word, int number = 0) {
  HolderMessage message;
  message.word = word;
  message.number = number;
  (void)image::send_to_holder(socket, message, {});
}

bool signal_process(const UniqueFd& process, int signal) {
  return ::syscall(SYS_pidfd_send_signal, process.get(), signal, nullptr, 0) == 0;
}

bool Holder::obey() {
  answer(line_.get(), Word::done, ::getpid());
  while (auto received = image::receive_of_holder(line_.get())) {
    const Word word = received->message.word;
    if (word == Word::commit) return commit();
    if (!(word == Word::prepare ? prepare(*received) : take_in(*received))) break;
  }
  // rfork-trace has ended, and its original goes on. SIGCONT takes back a SIGSTOP that is pending,
  // too.
  if (original_ && !stays_stopped_) signal_process(original_, SIGCONT);
  return false;
}

bool Holder::prepare(ReceivedHolderMessage& received) {
  if (received.passed.size() != 1) return false;
  original_ = std::move(received.passed[0]);
  stays_stopped_ = received.message.number != 0;
  answer(line_.get(), Word::done);
  return true;
}

bool Holder::take_in(ReceivedHolderMessage& received) {
  const HolderMessage& message = received.message;
  if (message.word != Word::hold || received.passed.size() != message.count) return false;
  owner_ = static_cast<uid_t>(message.number);
  for (size_t i = 0; i < message.count; ++i) {
    held_[message.cookies[i]] = std::move(received.passed[i]);
  }
  answer(line_.get(), Word::done);
  return true;
}

// Whoever comes before the answer waits in the queue.
bool Holder::commit() {
  constexpr int kBacklog = 16;
  if (::listen(listening_.get(), kBacklog) != 0 || !signal_process(original_, SIGKILL)) {
    HolderMessage message;
    message.word = Word::refused;
    message.why = Why::failed;
    message.number = errno;
    (void)image::send_to_holder(line_.get(), message, {});
    return false;
  }
  answer(line_.get(), Word::done);
  line_.reset();
  original_.reset();
  return true;
}

void Holder::serve() {
  while (!held_.empty()) {
    pollfd ends[] = {{listening_.get(), POLLIN, 0}, {taker_.get(), POLLIN, 0}};
    if (::poll(ends, taker_ ? 2 : 1, -1) < 0) continue;
    if (taker_ && ends[1].revents != 0) {
      hear_taker();
    } else if (ends[0].revents != 0) {
      meet_next();
    }
  }
}

void Holder::meet_next() {
  UniqueFd next(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!next) return;
  const auto who = socket_option<ucred>(next.get(), SOL_SOCKET, SO_PEERCRED);
  if (!who || (who->uid != 0 && who->uid != ::geteuid())) {
    return refuse(next.get(), Why::not_allowed);
  }
  if (taker_) return refuse(next.get(), Why::busy);
  taker_ = std::move(next);
}

void Holder::hear_taker() {
  const auto received = image::receive_of_holder(taker_.get(), MSG_DONTWAIT);
  if (!received && errno == EAGAIN) return;
  if (!received) return forget_taker();
  if (received->message.word == Word::want) return give(received->message);
  if (received->message.word == Word::taken) {
    for (const uint64_t cookie : given_) held_.erase(cookie);
    given_.clear();
  }
  forget_taker();
}

void Holder::give(const HolderMessage& wanted) {
  HolderMessage message = wanted;
  message.word = Word::given;
  message.number = static_cast<int32_t>(owner_);
  std::vector<int> passed;
  for (size_t i = 0; i < wanted.count; ++i) {
    const auto found = held_.find(wanted.cookies[i]);
    if (found == held_.end()) {
      refuse(taker_.get(), Why::unknown);
      return forget_taker();
    }
    passed.push_back(found->second.get());
  }
  if (!image::send_to_holder(taker_.get(), message, passed, MSG_DONTWAIT)) {
    refuse(taker_.get(), Why::failed, errno);
    return forget_taker();
  }
  given_.insert(wanted.cookies.begin(), wanted.cookies.begin() + wanted.count);
}

void Holder::refuse(int socket, Why why, int number) const {
  HolderMessage message;
  message.word = Word::refused;
  message.why = why;
  message.number = number;
  (void)image::send_to_holder(socket, message, {}, MSG_DONTWAIT);
}

void Holder::forget_taker() {
  given_.clear();
  taker_.reset();
}

}  // namespace

int hold_connections(UniqueFd line, UniqueFd listening) {
  Holder holder(std::move(line), std::move(listening));
  if (holder.obey()) holder.serve();
  return 0;
}

int hold_connections() {
  ::prctl(PR_SET_NAME, "rfork-holder");
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  for (const int fd : {kLine, kListening}) {
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return 1;
  }
  return hold_connections(UniqueFd(kLine), UniqueFd(kListening));
}

}  // namespace rfork::session
