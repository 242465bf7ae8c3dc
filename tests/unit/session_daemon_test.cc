// A daemon in a process of its own on loopback, and clients that behave and that don't. No process
// is restored here: the images are garbage.
#include <arpa/inet.h>
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "base/error.h"
#include "image/format.h"
#include "net/link.h"
#include "session/control.h"
#include "session/daemon.h"
#include "session/destination.h"

using namespace rfork;
using namespace rfork::session;
using Catch::Matchers::Contains;
using std::chrono::milliseconds;

namespace {

/// Looks again and again, for ten seconds at most.
bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return false;
}

class Daemon {
 public:
  explicit Daemon(bool with_key = true) {
    char name[] = "/tmp/rfork-daemon-test-XXXXXX";
    folder_ = ::mkdtemp(name);
    options.listen = {{"127.0.0.1", 0}};
    if (with_key) {
      std::array<std::byte, net::kKeySize> key{};
      key[0] = std::byte{1};
      options.key.emplace(key);
    }
    options.users.allow_root = true;
    options.state_dir = folder_ + "/state";
    options.port_file = folder_ + "/port";
    options.deadlines.handshake = milliseconds(1'000);
  }
  void start() {
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      for (const int signal : {SIGTERM, SIGINT, SIGSEGV, SIGABRT}) std::signal(signal, SIG_DFL);
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // it ends with a test that crashes
      spdlog::set_level(spdlog::level::off);
      try {
        run_daemon(options);
      } catch (const std::exception&) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    REQUIRE(eventually([&] { return (std::ifstream(options.port_file) >> port_) && port_ != 0; }));
  }
  ~Daemon() {
    stop();
    std::filesystem::remove_all(folder_);
  }
  int stop() {
    if (pid_ <= 0) return 0;
    ::kill(pid_, SIGTERM);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return status;
  }
  Endpoint endpoint() const {
    return {{"127.0.0.1", port_}, options.key, {}, [] { return false; }};
  }
  /// Processes that the daemon has forked.
  std::vector<pid_t> workers() const {
    const std::string pid = std::to_string(pid_);
    std::ifstream list("/proc/" + pid + "/task/" + pid + "/children");
    std::vector<pid_t> workers;
    for (pid_t worker = 0; list >> worker;) workers.push_back(worker);
    return workers;
  }
  UniqueFd raw_connection() const {
    UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port_);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return socket;
  }

  DaemonOptions options;

 private:
  std::string folder_;
  pid_t pid_ = 0;
  uint16_t port_ = 0;
};

Offer sample_offer() {
  Offer offer;
  offer.needs.host = image::this_host();
  offer.pid = 42;
  offer.tids = {42};
  offer.name = "sample";
  offer.uid = ::geteuid();
  offer.user = ::geteuid() == 0 ? "root" : "somebody";
  return offer;
}

Refusal refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Refusal& refusal) {
    return refusal;
  }
  return {Failure{}, "nothing was refused"};
}

using State = Resolution::State;

}  // namespace

TEST_CASE("a daemon without children answers, and ends when it is told") {
  Daemon daemon(GENERATE(true, false));
  daemon.start();
  CHECK(list_children(daemon.endpoint()).empty());
  CHECK(resolve(daemon.endpoint(), std::string(32, '0')).state == State::unknown);
  for (const auto& call :
       std::vector<std::function<void()>>{[&] { (void)wait_for_child(daemon.endpoint(), "1"); },
                                          [&] { send_signal(daemon.endpoint(), "1", SIGTERM); },
                                          [&] { remove_child(daemon.endpoint(), "1"); },
                                          [&] { read_log(daemon.endpoint(), {"1"}, [](auto) {}); },
                                          [&] { (void)resolve(daemon.endpoint(), "no id"); }}) {
    CHECK(refusal_of(call).failure() == Failure::destination_refused);
  }
  CHECK(daemon.stop() == 0);
  CHECK_FALSE(std::filesystem::exists(daemon.options.port_file));
  CHECK(refusal_of([&] { (void)list_children(daemon.endpoint()); }).failure() ==
        Failure::connection_lost);
}

TEST_CASE("an offer is judged before anything is sent") {
  Daemon daemon;
  daemon.start();
  Offer offer = sample_offer();
  SECTION("taken") {
    Destination there(daemon.endpoint());
    (void)there.offer(offer);
    CHECK(list_children(daemon.endpoint()).at(0).name == "sample");
    there.abort();
    CHECK(eventually([&] { return list_children(daemon.endpoint()).empty(); }));
    CHECK(resolve(daemon.endpoint(), there.move_id()).state == State::aborted);
  }
  SECTION("a host that doesn't fit, every reason at once") {
    offer.needs.host.architecture = "pdp11";
    offer.needs.host.page_size = 512;
    Destination there(daemon.endpoint());
    const Refusal refusal = refusal_of([&] { (void)there.offer(offer); });
    CHECK(refusal.failure() == Failure::destination_refused);
    CHECK_THAT(refusal.what(), Contains("pdp11"));
  }
  SECTION("a file that would be replaced") {
    const std::string path = daemon.options.state_dir + "/logs";  // exists, and is no regular file
    image::File file;
    file.path = path;
    offer.open_files = {file};
    Destination there(daemon.endpoint());
    const Refusal refusal = refusal_of([&] { (void)there.offer(offer); });
    CHECK_THAT(refusal.what(), Contains(path) && Contains("--overwrite-files"));
  }
}

TEST_CASE("a root daemon takes users that it was told to take") {
  if (::geteuid() != 0) return;  // others can only run children as themselves
  Daemon daemon;
  daemon.options.users = {{"nobody"}, false};
  daemon.start();
  Offer offer = sample_offer();
  const auto refused = [&] {
    return refusal_of([&] { (void)Destination(daemon.endpoint()).offer(offer); });
  };
  CHECK_THAT(refused().what(), Contains("--allow-root"));
  offer.uid = 7777;
  CHECK_THAT(refused().what(), Contains("--allow-root"));  // the name decides, too
  offer.user = "daemon";
  CHECK_THAT(refused().what(), Contains("--allow-user daemon"));
  offer.user = "";
  CHECK(refused().failure() == Failure::destination_refused);
  offer.user = "nobody";
  Destination there(daemon.endpoint());
  CHECK_THAT(there.offer(offer).warnings.at(0), Contains("nobody has uid 65534"));
}

TEST_CASE("without a key another user of the host is not served") {
  if (::geteuid() != 0) return;  // takes another user
  Daemon daemon(false);
  daemon.start();
  REQUIRE(::seteuid(65534) == 0);
  const Refusal refusal = refusal_of([&] { (void)list_children(daemon.endpoint()); });
  REQUIRE(::seteuid(0) == 0);
  CHECK(refusal.failure() == Failure::destination_refused);
  CHECK_THAT(refusal.what(), Contains("own user"));
}

TEST_CASE("an image that is none is refused with its reason, in the middle of the data") {
  Daemon daemon;
  daemon.start();
  Destination there(daemon.endpoint());
  (void)there.offer(sample_offer());
  const Bytes garbage(256u << 10, std::byte{'x'});
  const Refusal refusal = refusal_of([&] {
    for (int i = 0; i < 4000; ++i) there.send(garbage);
  });
  CHECK(refusal.failure() == Failure::destination_refused);
  CHECK_THAT(refusal.what(), !Contains("connection"));
  CHECK(resolve(daemon.endpoint(), there.move_id()).state == State::aborted);
  CHECK(list_children(daemon.endpoint()).empty());
}

TEST_CASE("a client that closes at any message leaves nothing") {
  Daemon daemon;
  daemon.start();
  const int steps = GENERATE(0, 1, 2, 3);
  std::string move_id;
  {
    Destination there(daemon.endpoint());
    move_id = there.move_id();
    if (steps > 0) (void)there.offer(sample_offer());
    if (steps > 1) there.send(Bytes(image::kPrefixSize / 2));
    if (steps > 2) CHECK_THROWS_AS(there.finish_and_wait_ready(), Refusal);
  }
  CHECK(eventually([&] { return list_children(daemon.endpoint()).empty(); }));
  CHECK(resolve(daemon.endpoint(), move_id).state == (steps > 0 ? State::aborted : State::unknown));
}

TEST_CASE("a killed worker costs its own client and nobody else") {
  Daemon daemon;
  daemon.start();
  Destination other(daemon.endpoint());
  (void)other.offer(sample_offer());
  const std::vector<pid_t> before = daemon.workers();
  REQUIRE(before.size() == 1);
  Destination there(daemon.endpoint());
  (void)there.offer(sample_offer());
  for (const pid_t worker : daemon.workers()) {
    if (worker != before[0]) ::kill(worker, SIGKILL);
  }
  const Refusal refusal = refusal_of([&] { (void)there.finish_and_wait_ready(); });
  CHECK(refusal.failure() == Failure::connection_lost);
  CHECK(resolve(daemon.endpoint(), there.move_id()).state == State::aborted);
  CHECK(list_children(daemon.endpoint()).size() == 1);
  CHECK(refusal_of([&] {
          other.send(Bytes(4096, std::byte{'x'})), other.finish_and_wait_ready();
        }).failure() == Failure::destination_refused);
}

TEST_CASE("RESOLVE ends a restore whose client is still there") {
  Daemon daemon;
  daemon.start();
  Destination there(daemon.endpoint());
  (void)there.offer(sample_offer());
  CHECK(resolve(daemon.endpoint(), there.move_id()).state == State::aborted);
  const Refusal refusal = refusal_of([&] { (void)there.finish_and_wait_ready(); });
  INFO(refusal.what());
  CHECK(refusal.failure() == Failure::destination_refused);
}

TEST_CASE("garbage and silence don't keep others out") {
  Daemon daemon;
  daemon.options.max_unauthenticated = 16;
  daemon.start();
  std::vector<UniqueFd> connections;
  for (int i = 0; i < 100; ++i) {
    UniqueFd connection = daemon.raw_connection();
    const std::string garbage(static_cast<size_t>(i) * 7, static_cast<char>(i));
    (void)::send(connection.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
    if (i % 2 == 0) connections.push_back(std::move(connection));
  }
  // Too many may be told to come again; the silent ones are dropped soon.
  CHECK(eventually([&] {
    try {
      return list_children(daemon.endpoint()).empty();
    } catch (const Refusal&) {
      return false;
    }
  }));
  CHECK(eventually([&] { return daemon.workers().empty(); }));
}

TEST_CASE("a request that is none is refused") {
  Daemon daemon(false);
  daemon.start();
  const auto ask = [&](net::FrameType type, const Bytes& body) {
    net::Link link(daemon.endpoint().address, {milliseconds(5'000), "x"}, [] { return false; });
    link.handshake(net::Role::client, nullptr, {milliseconds(5'000), "x"});
    link.write(type, body, {milliseconds(5'000), "x"});
    return link.read({milliseconds(5'000), "x"}).type;
  };
  CHECK(ask(net::FrameType::go, {}) == net::FrameType::refused);
  CHECK(ask(net::FrameType::running, {}) == net::FrameType::refused);
  CHECK(ask(net::FrameType::offer, Bytes(1000, std::byte{0xff})) == net::FrameType::refused);
  CHECK(ask(net::FrameType::resolve, {}) == net::FrameType::refused);
  CHECK(list_children(daemon.endpoint()).empty());
}

TEST_CASE("addresses that can't be listened on") {
  Daemon daemon(false);
  daemon.start();
  Daemon second(false);
  second.options.listen = {daemon.endpoint().address};
  const Refusal taken = refusal_of([&] { run_daemon(second.options); });
  CHECK(taken.failure() == Failure::usage);
  CHECK_THAT(taken.what(), Contains("in use"));
  second.options.listen = {{"0.0.0.0", 0}};
  const Refusal open = refusal_of([&] { run_daemon(second.options); });
  CHECK(open.failure() == Failure::usage);
  CHECK_THAT(open.what(), Contains("without a key"));
}
