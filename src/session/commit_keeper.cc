#include "session/commit_keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "base/io.h"
#include "image/connection_holder.h"
#include "session/keep_commit.h"

namespace rfork::session {

using image::HolderMessage;
using Word = HolderMessage::Word;

namespace {

UniqueFd open_process(pid_t pid) {
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) throw ProcessGone(pid);
  return process;
}

}  // namespace

CommitKeeper::CommitKeeper(std::function<Resolution(const std::string&)> ask,
                           std::function<std::string(pid_t, const std::string&)> how_to_decide) {
  rlimit limit{};  // each connection is open in both
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  auto [ours, theirs] = make_seqpacket_pair();
  line_ = std::move(ours);
  keeper_ = ::fork();
  if (keeper_ < 0) throw_errno("fork");
  if (keeper_ != 0) return;
  line_.reset();
  ::setsid();  // neither the terminal's Ctrl-C nor a signal to our group reaches it
  int status = 0;
  try {
    keep_commit({std::move(theirs), std::move(ask), std::move(how_to_decide)});
  } catch (const std::exception& error) {
    status = report_failure("rfork-trace", error);
  }
  ::_exit(status);
}

CommitKeeper::~CommitKeeper() {
  try {
    if (holds_ && !begun_) commit_ends(Outcome::original_goes_on);
  } catch (const std::exception&) {
    // It has ended, or sees our end.
  }
  line_.reset();
  if (keeper_ > 0 && !stays_) ::waitpid(keeper_, nullptr, 0);
}

void CommitKeeper::hold(pid_t original, int silence, int addresses, bool stopped,
                        const std::vector<tracer::KeptSocket>& sockets) {
  const auto tell = [&](const HolderMessage& message, const std::vector<int>& passed) {
    const bool sent = image::send_to_holder(line_.get(), message, passed);
    const auto answer = sent ? image::receive_of_holder(line_.get()) : std::nullopt;
    if (answer && answer->message.word == Word::done) return;
    throw Refusal(Failure::internal, fmt::format("the TCP connections can't be watched over: {}",
                                                 std::strerror(errno)));
  };
  const UniqueFd process = open_process(original);
  HolderMessage first;
  first.word = Word::prepare;
  first.number = stopped ? 1 : 0;
  tell(first, {process.get(), silence, addresses});
  for (size_t at = 0; at < sockets.size(); at += image::kMostHeldAtOnce) {
    HolderMessage message;
    message.word = Word::hold;
    std::vector<int> passed;
    for (size_t i = at; i < std::min(sockets.size(), at + image::kMostHeldAtOnce); ++i) {
      passed.push_back(sockets[i].fd.get());
    }
    tell(message, passed);
  }
  holds_ = true;
}

void CommitKeeper::commit_begins(pid_t original, const std::string& move_id) {
  const UniqueFd process = open_process(original);
  HolderMessage message;
  message.word = Word::commit;
  message.number = original;
  std::memcpy(message.cookies.data(), move_id.data(), std::min(move_id.size(), kMoveIdSize));
  if (!image::send_to_holder(line_.get(), message, {process.get()})) {
    throw_errno("send", "commit keeper");
  }
  begun_ = true;
}

void CommitKeeper::commit_ends(Outcome outcome) {
  HolderMessage message;
  message.word = Word::done;
  message.number = static_cast<int32_t>(outcome);
  stays_ = holds_ && outcome != Outcome::original_goes_on;
  if (!image::send_to_holder(line_.get(), message, {})) throw_errno("send", "commit keeper");
}

}  // namespace rfork::session
