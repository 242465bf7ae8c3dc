// The holder of a moved process's connections, and what it does when others die.
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>

#include "base/error.h"
#include "base/io.h"
#include "image/connection_holder.h"
#include "session/connection_holder.h"

using namespace rfork;
using image::HolderMessage;
using Why = HolderMessage::Why;
using Word = HolderMessage::Word;

namespace {

/// A child of ours; ended with this, or with the test.
struct Child {
  template <typename Work>
  explicit Child(Work work) : pid(::fork()) {
    if (pid != 0) return;
    for (const int signal : {SIGTERM, SIGINT, SIGSEGV, SIGABRT}) std::signal(signal, SIG_DFL);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::_exit(work());
  }
  ~Child() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  int wait() {
    int status = -1;
    ::waitpid(pid, &status, 0);
    return status;
  }
  char state() const {
    const std::string stat = read_file(fmt::format("/proc/{}/stat", pid));
    return stat.at(stat.rfind(')') + 2);
  }
  const pid_t pid;
};

HolderMessage message_of(Word word, std::vector<uint64_t> cookies = {}) {
  HolderMessage message;
  message.word = word;
  for (const uint64_t cookie : cookies) message.cookies[message.count++] = cookie;
  return message;
}

/// A holder with one socket, an original, and this program in the place of rfork-trace.
struct Scene {
  Scene()
      : name(fmt::format("rfork-test-{}-{}", ::getpid(), ++count)),
        listening(image::holder_socket()),
        line(make_seqpacket_pair()),
        sockets(make_seqpacket_pair()),
        original([] {
          ::close_range(3, ~0u, 0);
          ::raise(SIGSTOP);  // not before it has let go of the holder's line
          for (;;) ::pause();
          return 0;
        }),
        holder([this] {
          line.first.reset();
          sockets = {};
          return session::hold_connections(std::move(line.second), std::move(listening));
        }) {
    listening.reset();
    line.second.reset();
    cookie = image::socket_cookie(sockets.first.get());
    hear(Word::done);
    say(message_of(Word::hold, {cookie}), {sockets.first.get()});
    hear(Word::done);
    const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, original.pid, 0)));
    say(message_of(Word::prepare), {process.get()});
    hear(Word::done);
    while (original.state() != 'T') ::usleep(1000);
  }
  void say(const HolderMessage& message, const std::vector<int>& passed = {}) {
    REQUIRE(image::send_to_holder(line.first.get(), message, passed));
  }
  void hear(Word word) {
    const auto answer = image::receive_of_holder(line.first.get());
    REQUIRE(answer);
    CHECK(answer->message.word == word);
  }
  UniqueFd connect() {
    UniqueFd taker = image::holder_socket();
    REQUIRE(image::connect_to_holder(taker.get(), name) == 0);
    return taker;
  }
  /// The word that answers `want`.
  Word ask(const UniqueFd& taker, std::vector<uint64_t> cookies, Why why = Why::none) {
    (void)image::send_to_holder(taker.get(), message_of(Word::want, cookies), {});
    auto answer = image::receive_of_holder(taker.get());
    if (!answer && errno == ECONNRESET) answer = image::receive_of_holder(taker.get());
    REQUIRE(answer);
    CHECK(answer->message.why == why);
    if (answer->message.word == Word::given) {
      REQUIRE(answer->passed.size() == cookies.size());
      for (size_t i = 0; i < cookies.size(); ++i) {
        CHECK(image::socket_cookie(answer->passed[i].get()) == cookies[i]);
      }
    }
    return answer->message.word;
  }
  /// Whether the holder's end of `sockets` is closed, by all who had it.
  bool is_over() {
    sockets.first.reset();
    pollfd other{sockets.second.get(), POLLIN, 0};
    return ::poll(&other, 1, 100) == 1 && (other.revents & POLLHUP) != 0;
  }

  static inline int count = 0;
  const std::string name;
  UniqueFd listening;
  std::pair<UniqueFd, UniqueFd> line;
  std::pair<UniqueFd, UniqueFd> sockets;
  uint64_t cookie = 0;
  const int bound = image::bind_holder(listening.get(), name);
  Child original, holder;
};

}  // namespace

TEST_CASE("a commit that was sent is done, whenever its sender ends") {
  Scene scene;
  ::kill(scene.holder.pid, SIGSTOP);
  scene.say(message_of(Word::commit));
  scene.line.first.reset();
  ::usleep(10'000);
  CHECK(scene.original.state() == 'T');
  ::kill(scene.holder.pid, SIGCONT);
  const int status = scene.original.wait();
  CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
  CHECK_FALSE(scene.is_over());
  const UniqueFd taker = scene.connect();
  CHECK(scene.ask(taker, {scene.cookie}) == Word::given);
  REQUIRE(image::send_to_holder(taker.get(), message_of(Word::taken), {}));
  CHECK(scene.holder.wait() == 0);
}

TEST_CASE("without a commit the original goes on, and nothing is held") {
  Scene scene;
  scene.line.first.reset();
  CHECK(scene.holder.wait() == 0);
  while (scene.original.state() == 'T') ::usleep(1000);
  CHECK(scene.is_over());
  const UniqueFd taker = image::holder_socket();
  CHECK(image::connect_to_holder(taker.get(), scene.name) == ECONNREFUSED);
}

TEST_CASE("a connection is lent to one, and held until that one says that it is taken") {
  Scene scene;
  scene.say(message_of(Word::commit));
  scene.hear(Word::done);
  UniqueFd first = scene.connect();
  CHECK(scene.ask(first, {scene.cookie}) == Word::given);
  CHECK(scene.ask(scene.connect(), {scene.cookie}, Why::busy) == Word::refused);
  first.reset();
  CHECK(scene.ask(scene.connect(), {scene.cookie + 1}, Why::unknown) == Word::refused);
  CHECK_FALSE(scene.is_over());
  UniqueFd last = scene.connect();
  CHECK(scene.ask(last, {scene.cookie}) == Word::given);
  // Who has it twice over, as rfork-run and its child, has it until both are gone.
  UniqueFd child(::dup(last.get()));
  last.reset();
  CHECK(scene.ask(scene.connect(), {scene.cookie}, Why::busy) == Word::refused);
  REQUIRE(image::send_to_holder(child.get(), message_of(Word::taken), {}));
  CHECK(scene.holder.wait() == 0);
  CHECK(scene.is_over());
}
