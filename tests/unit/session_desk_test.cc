// The daemon's table of children: at every moment a move is either never to run or running, and
// whoever asks is told which.
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "session/desk.h"
#include "session/messages.h"

using namespace rfork;
using namespace rfork::session;
using Catch::Matchers::Contains;

namespace {

/// A child that waits to be killed, at the latest when this program ends.
pid_t waiting_process() {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) ::pause();
}

struct Sent {
  WorkerId worker;
  PacketType type;
  Bytes body;
  bool descriptor;
};

std::string state_dir() {
  char name[] = "/tmp/rfork-desk-test-XXXXXX";
  return ::mkdtemp(name);
}

/// A desk without a daemon around it; processes are this test's own children that only sleep.
class Fixture {
 public:
  explicit Fixture(size_t max_ended = 8)
      : folder(state_dir()),
        desk(LogStore(folder, 8), max_ended,
             [this](WorkerId worker, PacketType type, const Bytes& body, int descriptor) {
               sent.push_back({worker, type, body, descriptor >= 0});
             }) {
    spdlog::set_level(spdlog::level::off);
  }
  ~Fixture() {
    for (const pid_t pid : processes_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
    std::filesystem::remove_all(folder);
  }

  Sent take() {
    REQUIRE_FALSE(sent.empty());
    Sent first = sent.front();
    sent.erase(sent.begin());
    return first;
  }
  template <typename Message>
  void tell(WorkerId worker, PacketType type, const Message& message, UniqueFd fd = {}) {
    desk.handle(worker, {type, encode(message), std::move(fd)});
  }
  void tell(WorkerId worker, PacketType type) { desk.handle(worker, {type, {}, {}}); }

  std::string announce(WorkerId worker, const std::string& move_id) {
    ChildInfo info;
    info.move_id = move_id;
    tell(worker, PacketType::announce, Announcement{info});
    const Sent answer = take();
    REQUIRE(answer.type == PacketType::registered);
    CHECK(answer.descriptor);
    return decode<ChildInfo>(answer.body).id;
  }
  /// Gives the pid of the process that stands ready.
  pid_t stand(WorkerId worker) {
    const pid_t pid = waiting_process();
    processes_.push_back(pid);
    UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    tell(worker, PacketType::standing, Standing{pid, pid, pid}, std::move(pidfd));
    CHECK(take().type == PacketType::done);
    return pid;
  }
  int reap(pid_t pid) {
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    std::erase(processes_, pid);
    return status;
  }
  Resolution resolve(WorkerId worker, const std::string& move_id) {
    tell(worker, PacketType::resolve, MoveQuestion{move_id});
    for (size_t i = 0; i < sent.size(); ++i) {
      if (sent[i].worker != worker) continue;
      const Sent answer = sent[i];
      sent.erase(sent.begin() + static_cast<ptrdiff_t>(i));
      return decode<Resolution>(answer.body);
    }
    FAIL("no answer");
    return {};
  }

  std::string folder;
  std::vector<Sent> sent;
  Desk desk;

 private:
  std::vector<pid_t> processes_;
};

using State = Resolution::State;
const std::string kMove(32, 'a');

}  // namespace

TEST_CASE("a child is let go, seen, ended and forgotten") {
  Fixture f;
  const std::string id = f.announce(1, kMove);
  CHECK(std::filesystem::exists(f.folder + "/logs/" + kMove + ".log"));
  const pid_t pid = f.stand(1);
  f.tell(1, PacketType::may_go);
  CHECK(f.take().type == PacketType::done);
  f.tell(1, PacketType::let_go);
  f.desk.worker_gone(1);
  CHECK(f.resolve(2, kMove).state == State::running);
  CHECK(f.desk.children().alive() == 1);

  f.tell(3, PacketType::remove, ChildQuestion{id});
  CHECK(f.take().type == PacketType::refused);
  f.tell(4, PacketType::wait, ChildQuestion{id});
  CHECK(f.sent.empty());
  f.tell(3, PacketType::kill, KillOrder{id, SIGUSR1});
  CHECK(f.take().type == PacketType::done);
  f.desk.waited(pid, f.reap(pid));
  const Sent waited = f.take();
  CHECK(waited.worker == 4);
  CHECK(decode<ChildInfo>(waited.body).end.code == SIGUSR1);
  CHECK(f.resolve(2, kMove).state == State::ended);

  f.tell(3, PacketType::kill, KillOrder{id, SIGUSR1});
  CHECK(f.take().type == PacketType::refused);
  f.tell(3, PacketType::remove, ChildQuestion{id});
  CHECK(f.take().type == PacketType::done);
  CHECK_FALSE(std::filesystem::exists(f.folder + "/logs/" + kMove + ".log"));
  CHECK(f.resolve(2, kMove).state == State::unknown);
}

TEST_CASE("a question before the grant aborts for ever") {
  Fixture f;
  const bool ready = GENERATE(false, true);
  (void)f.announce(1, kMove);
  if (ready) (void)f.stand(1);
  CHECK(f.resolve(2, kMove).state == State::aborted);
  const Sent order = f.take();
  CHECK(order.worker == 1);
  CHECK(order.type == PacketType::aborted);
  if (!ready) (void)f.stand(1);
  f.tell(1, PacketType::may_go);
  CHECK(f.take().type == PacketType::refused);
  CHECK(f.resolve(2, kMove).state == State::aborted);
  CHECK(f.sent.empty());  // one order is enough
  f.desk.worker_gone(1);
  CHECK(f.resolve(2, kMove).state == State::aborted);
  ChildInfo again;
  again.move_id = kMove;
  f.tell(5, PacketType::announce, Announcement{again});
  CHECK(f.take().type == PacketType::refused);
}

TEST_CASE("a question after the grant waits for what becomes of it") {
  Fixture f;
  (void)f.announce(1, kMove);
  const pid_t pid = f.stand(1);
  f.tell(1, PacketType::may_go);
  CHECK(f.take().type == PacketType::done);
  f.tell(2, PacketType::resolve, MoveQuestion{kMove});
  CHECK(f.sent.empty());
  SECTION("it is let go") {
    f.tell(1, PacketType::let_go);
    const auto resolution = decode<Resolution>(f.take().body);
    CHECK(resolution.state == State::running);
    CHECK(resolution.pid == pid);
  }
  SECTION("its worker dies: it is ended, and that is the answer") {
    f.desk.worker_gone(1);
    CHECK(decode<Resolution>(f.take().body).state == State::aborted);
    const int status = f.reap(pid);
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    f.desk.waited(pid, status);
    CHECK(f.resolve(2, kMove).state == State::aborted);
  }
}

TEST_CASE("a grant needs a child that stands ready, and is given once") {
  Fixture f;
  f.tell(1, PacketType::may_go);
  CHECK(f.take().type == PacketType::refused);
  (void)f.announce(1, kMove);
  f.tell(1, PacketType::may_go);
  CHECK(f.take().type == PacketType::refused);
  (void)f.stand(1);
  f.tell(1, PacketType::let_go);  // without a grant: not believed
  CHECK(f.desk.children().alive() == 0);
  f.tell(1, PacketType::may_go);
  CHECK(f.take().type == PacketType::done);
  f.tell(1, PacketType::may_go);
  CHECK(f.take().type == PacketType::refused);
}

TEST_CASE("a dead worker's child is ended and those who wait for it are told") {
  Fixture f;
  const std::string id = f.announce(1, kMove);
  const pid_t pid = f.stand(1);
  f.tell(2, PacketType::wait, ChildQuestion{id});
  f.desk.worker_gone(1);
  const Sent told = f.take();
  CHECK(told.worker == 2);
  CHECK(told.type == PacketType::refused);
  CHECK(WTERMSIG(f.reap(pid)) == SIGKILL);
  CHECK_FALSE(std::filesystem::exists(f.folder + "/logs/" + kMove + ".log"));
}

TEST_CASE("the oldest ended children are forgotten, with their logs") {
  Fixture f(2);
  for (int i = 0; i < 4; ++i) {
    const auto worker = static_cast<WorkerId>(10 + i);
    (void)f.announce(worker, std::string(32, static_cast<char>('a' + i)));
    const pid_t pid = f.stand(worker);
    f.tell(worker, PacketType::may_go);
    (void)f.take();
    f.tell(worker, PacketType::let_go);
    f.desk.worker_gone(worker);
    ::kill(pid, SIGKILL);
    f.desk.waited(pid, f.reap(pid));
  }
  f.tell(1, PacketType::list, ListQuestion{});
  const auto list = decode<ListPart>(f.take().body);
  REQUIRE(list.children.size() == 2);
  CHECK(list.children[0].id == "3");
  CHECK(list.children[1].id == "4");
  CHECK_FALSE(std::filesystem::exists(f.folder + "/logs/" + std::string(32, 'a') + ".log"));
  CHECK(std::filesystem::exists(f.folder + "/logs/" + std::string(32, 'd') + ".log"));
}

TEST_CASE("long lists come in parts") {
  Fixture f;
  for (WorkerId worker = 1; worker <= 70; ++worker) {
    (void)f.announce(worker, make_move_id());
  }
  size_t seen = 0;
  ListQuestion question;
  for (bool more = true; more;) {
    f.tell(100, PacketType::list, question);
    const auto part = decode<ListPart>(f.take().body);
    seen += part.children.size();
    more = part.more;
    if (more) question.after = std::stoull(part.children.back().id);
  }
  CHECK(seen == 70);
}

TEST_CASE("what a worker may not say is refused, and nothing else happens") {
  Fixture f;
  f.desk.handle(1, {PacketType::registered, {}, {}});
  CHECK(f.take().type == PacketType::refused);
  f.desk.handle(1, {PacketType::announce, Bytes(10), {}});
  CHECK(f.take().type == PacketType::refused);
  f.tell(1, PacketType::standing, Standing{1, 1, 1});
  CHECK(f.take().type == PacketType::refused);
  for (const char* id : {"0", "7", "", "-1", "1x", "99999999999999999999999"}) {
    f.tell(1, PacketType::look, ChildQuestion{id});
    const Sent answer = f.take();
    CHECK(answer.type == PacketType::refused);
    CHECK_THAT(decode<RefusedMessage>(answer.body).reasons.at(0).what, Contains("no child"));
  }
  f.desk.worker_gone(77);
  f.desk.waited(1, 0);
}

TEST_CASE("a child's end is told by the pipe of its namespace's init, where it has one") {
  Fixture f;
  const bool with_pipe = GENERATE(false, true);
  const std::string id = f.announce(1, kMove);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  if (with_pipe) f.desk.handle(1, {PacketType::end_pipe, {}, std::move(reader)});
  const pid_t pid = f.stand(1);
  f.tell(1, PacketType::may_go);
  (void)f.take();
  f.tell(1, PacketType::let_go);
  const int of_child = 200 << 8;  // exit(200), which as an init's exit status could be a signal
  REQUIRE(::write(writer.get(), &of_child, sizeof of_child) == sizeof of_child);
  f.desk.waited(pid, 3 << 8);
  f.tell(2, PacketType::look, ChildQuestion{id});
  const auto info = decode<ChildInfo>(f.take().body);
  CHECK_FALSE(info.end.signalled);
  CHECK(info.end.code == (with_pipe ? 200 : 3));
  CHECK(exit_code({true, SIGKILL, false}) == 137);
}

TEST_CASE("a move that one desk has is decided by a question to another") {
  Fixture fixture;
  std::vector<Sent> said[2];
  const auto desk = [&](int number) {
    return Desk(
        LogStore(fixture.folder, 8), 8,
        [&said, number](WorkerId worker, PacketType type, const Bytes& body, int descriptor) {
          said[number].push_back({worker, type, body, descriptor >= 0});
        },
        MoveRecords(fixture.folder, 8));
  };
  Desk first = desk(0);
  Desk second = desk(1);
  const std::string id(32, 'a');
  const auto begin = [&] {
    ChildInfo info;
    info.move_id = id;
    first.handle(1, {PacketType::announce, encode(Announcement{info}), {}});
    const pid_t pid = waiting_process();
    UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    first.handle(1, {PacketType::standing, encode(Standing{pid, pid, pid}), std::move(pidfd)});
    return pid;
  };
  const auto resolve = [&] {
    second.handle(2, {PacketType::resolve, encode(MoveQuestion{id}), {}});
    return decode<Resolution>(said[1].back().body);
  };
  CHECK(resolve().state == Resolution::State::unknown);  // it does not decide here
  const pid_t pid = begin();

  SECTION("before the grant: it never runs") {
    CHECK(resolve().state == Resolution::State::aborted);
    first.handle(1, {PacketType::may_go, {}, {}});
    CHECK(said[0].back().type == PacketType::refused);
    CHECK(resolve().state == Resolution::State::aborted);
  }
  SECTION("after it was let go: it runs") {
    first.handle(1, {PacketType::may_go, {}, {}});
    CHECK(said[0].back().type == PacketType::done);
    first.handle(1, {PacketType::let_go, {}, {}});
    const Resolution resolution = resolve();
    CHECK(resolution.state == Resolution::State::running);
    CHECK(resolution.pid == pid);
  }
  SECTION("after its worker died: it never ran") {
    first.handle(1, {PacketType::may_go, {}, {}});
    first.worker_gone(1);
    CHECK(resolve().state == Resolution::State::aborted);
  }
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}
