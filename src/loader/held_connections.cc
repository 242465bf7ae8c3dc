#include "loader/held_connections.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/io.h"

namespace rfork::loader {

using image::HolderMessage;
using Why = HolderMessage::Why;
using Word = HolderMessage::Word;

namespace {

// Of another restore that was killed just now the process is still about to end.
constexpr auto kPatience = std::chrono::seconds(3);
constexpr auto kAskEvery = std::chrono::milliseconds(30);
constexpr timeval kAnswerWithin{10, 0};

bool has_kept(const image::Snapshot& snapshot) {
  return std::ranges::any_of(snapshot.descriptions, [](const image::Description& description) {
    return description.socket && description.socket->kept;
  });
}

std::string refusal_words(Why why, int32_t pid) {
  switch (why) {
    case Why::unknown:
      return fmt::format("process {} holds it no more: it has been taken on", pid);
    case Why::busy:
      return fmt::format("another restore is taking it on from process {}", pid);
    case Why::not_allowed:
      return fmt::format("process {} gives it to its own user and root only", pid);
    case Why::none:
    case Why::failed:
      break;
  }
  return fmt::format("process {} doesn't give it", pid);
}

}  // namespace

HeldConnections::HeldConnections(const image::Snapshot& snapshot, bool wanted) {
  if (!wanted || !snapshot.holder || !has_kept(snapshot)) return;
  named_ = true;
  holder_ = *snapshot.holder;
  const std::string& boot = snapshot.host.boot_id;
  if (boot.empty() || !read_file("/proc/sys/kernel/random/boot_id").starts_with(boot)) {
    give_up(
        fmt::format("it was held on {} until that is restarted, and only there it can be taken on",
                    snapshot.host.name));
    return;
  }
  if (const uint64_t here = image::own_network_namespace();
      here != 0 && holder_.network_namespace != 0 && here != holder_.network_namespace) {
    give_up(
        fmt::format("process {} holds it in another network namespace of this host", holder_.pid));
    return;
  }
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!greet() && line_ && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(kAskEvery);
  }
  if (line_ && !greeted_) give_up(refusal_words(Why::busy, holder_.pid));
}

/// False: it isn't to be had, or `line_` is there still and somebody else is served at the moment.
bool HeldConnections::greet() {
  line_ = image::holder_socket();
  for (const int option : {SO_SNDTIMEO, SO_RCVTIMEO}) {
    ::setsockopt(line_.get(), SOL_SOCKET, option, &kAnswerWithin, sizeof kAnswerWithin);
  }
  const int error = image::connect_to_holder(line_.get(), holder_.name);
  if (error != 0) {
    give_up(error == ECONNREFUSED
                ? fmt::format("process {} holds it no more: it has been taken on, or process {} "
                              "was ended",
                              holder_.pid, holder_.pid)
                : fmt::format("process {}, which holds it, doesn't answer: {}", holder_.pid,
                              std::strerror(error)));
    return false;
  }
  HolderMessage nothing;
  nothing.word = Word::want;
  const auto answer = ask(nothing);
  greeted_ = answer && answer->message.word == Word::given;
  if (greeted_) owner_ = static_cast<uid_t>(answer->message.number);
  const Why why = answer ? answer->message.why : Why::none;
  if (!greeted_ && why != Why::busy) give_up(refusal_words(why, holder_.pid));
  return greeted_;
}

std::optional<image::ReceivedHolderMessage> HeldConnections::ask(const HolderMessage& question) {
  (void)image::send_to_holder(line_.get(), question, {});
  auto answer = image::receive_of_holder(line_.get());
  // A holder that turns us away may not have read the question.
  if (!answer && errno == ECONNRESET) answer = image::receive_of_holder(line_.get());
  return answer;
}

void HeldConnections::give_up(std::string why) {
  why_not_ = std::move(why);
  given_.clear();
  line_.reset();
}

void HeldConnections::ask_for(std::vector<uint64_t> cookies) {
  std::ranges::sort(cookies);
  cookies.erase(std::unique(cookies.begin(), cookies.end()), cookies.end());
  if (line_ && ::geteuid() != 0 && owner_ != ::geteuid()) {
    return give_up(fmt::format("process {} holds it for another user", holder_.pid));
  }
  for (size_t first = 0; line_ && first < cookies.size(); first += image::kMostHeldAtOnce) {
    if (!ask_for_some(cookies, first)) return;
  }
}

bool HeldConnections::ask_for_some(const std::vector<uint64_t>& cookies, size_t first) {
  HolderMessage wanted;
  wanted.word = Word::want;
  const size_t end = std::min(cookies.size(), first + image::kMostHeldAtOnce);
  for (size_t i = first; i < end; ++i) wanted.cookies[wanted.count++] = cookies[i];
  auto answer = ask(wanted);
  if (!answer || answer->message.word != Word::given || answer->passed.size() != wanted.count) {
    give_up(refusal_words(answer ? answer->message.why : Why::none, holder_.pid));
    return false;
  }
  for (size_t i = 0; i < wanted.count; ++i) {
    if (image::socket_cookie(answer->passed[i].get()) != wanted.cookies[i]) {
      give_up(refusal_words(Why::none, holder_.pid));
      return false;
    }
    given_[wanted.cookies[i]] = std::move(answer->passed[i]);
  }
  return true;
}

UniqueFd HeldConnections::take(uint64_t cookie) {
  const auto found = given_.find(cookie);
  return found == given_.end() ? UniqueFd() : std::move(found->second);
}

void HeldConnections::add_taking(PlanWriter& plan, int line) const {
  HolderMessage taken;
  taken.word = Word::taken;
  plan.try_call(SYS_sendto,
                {static_cast<uint64_t>(line), plan.value(taken), sizeof taken, MSG_NOSIGNAL, 0, 0},
                "tell the holder of the connections that they are taken on");
}

}  // namespace rfork::loader
