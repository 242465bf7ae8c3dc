// Captures of real child processes: what is found, and that the child does not notice.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstring>
#include <functional>

#include "base/io.h"
#include "tracer/capture.h"
#include "tracer/page_scan.h"
#include "tracer/process_memory.h"

using namespace rfork;
using namespace rfork::tracer;

namespace {

// A forked child that runs `body` between "ready" and the end of its input, and exits with what
// `body` returns.
class Child {
 public:
  explicit Child(
      const std::function<void()>& set_up, const std::function<int()>& check = [] { return 0; }) {
    int to_child[2], from_child[2];
    REQUIRE(::pipe2(to_child, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(from_child, O_CLOEXEC) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      // Pipes are carried on 0 and 1 only.
      ::dup2(to_child[0], 0);
      ::dup2(from_child[1], 1);
      ::close_range(3, ~0u, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      set_up();
      (void)!::write(1, "r", 1);
      char end;
      const bool ended = ::read(0, &end, 1) == 0;
      ::_exit(ended ? check() : 99);
    }
    ::close(to_child[0]);
    ::close(from_child[1]);
    input_ = UniqueFd(to_child[1]);
    output_ = UniqueFd(from_child[0]);
    char ready = 0;
    REQUIRE(::read(output_.get(), &ready, 1) == 1);
  }
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  // Lets it check itself.
  void begin() { input_.reset(); }
  int finish() {
    begin();
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  UniqueFd input_, output_;
};

std::byte* map_pages(size_t pages, int flags = MAP_PRIVATE) {
  return static_cast<std::byte*>(
      ::mmap(nullptr, pages * 4096, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0));
}

size_t drain(Capture& capture) {
  Bytes buffer(100'000);
  size_t total = 0;
  while (const size_t n = capture.read(buffer)) total += n;
  return total;
}

}  // namespace

TEST_CASE("only pages that matter are found, by both ways of asking", "[ptrace]") {
  std::byte* const pages = map_pages(10);
  const Child child([&] {
    pages[1 * 4096] = std::byte{1};
    pages[2 * 4096] = std::byte{2};
    pages[5 * 4096 + 4095] = std::byte{5};  // zero but for its last byte
    pages[7 * 4096] = std::byte{0};         // touched, and zero
    volatile std::byte untouched = pages[8 * 4096];
    (void)untouched;
  });
  const ProcessMemory memory(child.pid());
  const auto start = reinterpret_cast<uint64_t>(pages);
  const std::vector<Range> expected{{start + 4096, start + 3 * 4096},
                                    {start + 5 * 4096, start + 6 * 4096}};
  const Range all{start, start + 10 * 4096};
  const auto pages_found = [&](bool use_scan_ioctl, bool skip_zero) {
    return PageScanner(memory, use_scan_ioctl)
        .find(all, PageScanner::Want::private_pages, skip_zero)
        .pages;
  };
  CHECK(pages_found(true, true) == expected);
  CHECK(pages_found(false, true) == expected);
  const auto touched = pages_found(false, false);
  CHECK(std::any_of(touched.begin(), touched.end(),
                    [&](const Range& run) { return run.contains(start + 7 * 4096); }));
  ::munmap(pages, 10 * 4096);
}

TEST_CASE("a copy is the process as it was, and the process goes on", "[ptrace]") {
  std::byte* const pages = map_pages(3);
  Child child(
      [&] { std::memset(pages, 7, 3 * 4096); },
      [&] { return pages[4096] == std::byte{7} && ::waitpid(-1, nullptr, __WALL) == -1 ? 0 : 1; });
  Options options;
  const Examination examination = examine(child.pid(), options);
  Capture capture(examination, options, {});
  const image::Process& process = capture.snapshot().processes.at(0);
  CHECK(process.pid == child.pid());
  CHECK(process.threads.size() == 1);
  CHECK(process.actions.size() == 64);
  CHECK(process.descriptors.size() == 3);
  const auto run = std::find_if(
      capture.runs().begin(), capture.runs().end(), [&](const image::DataRun& candidate) {
        return candidate.target == image::DataRun::Target::memory &&
               candidate.range.contains(reinterpret_cast<uint64_t>(pages));
      });
  REQUIRE(run != capture.runs().end());
  uint64_t expected = 0;
  for (const image::DataRun& each : capture.runs()) expected += image::padded_size(each);
  CHECK(drain(capture) == expected);
  CHECK(child.finish() == 0);  // no child that it did not make
  ::munmap(pages, 3 * 4096);
}

TEST_CASE("a hundred captures in a row leave no trace", "[ptrace]") {
  Child child([] {},
              [] { return ::waitpid(-1, nullptr, __WALL) == -1 && errno == ECHILD ? 0 : 1; });
  const std::string maps = read_file("/proc/" + std::to_string(child.pid()) + "/maps");
  for (int i = 0; i < 100; ++i) {
    Options options;
    const Examination examination = examine(child.pid(), options);
    Capture capture(examination, options, {});
    drain(capture);
  }
  CHECK(read_file("/proc/" + std::to_string(child.pid()) + "/maps") == maps);
  CHECK(child.finish() == 0);
}

TEST_CASE("a poll with a time-out is neither interrupted nor cut short", "[ptrace]") {
  Child sleeper([] {},
                [] {
                  const auto before = std::chrono::steady_clock::now();
                  pollfd none{-1, 0, 0};
                  const int result = ::poll(&none, 1, 400);
                  const auto passed = std::chrono::steady_clock::now() - before;
                  if (result != 0) return errno;
                  return passed >= std::chrono::milliseconds(399) ? 0 : 200;
                });
  sleeper.begin();
  Options options;
  options.thin = true;
  // As often as it takes, until it has ended.
  for (bool lives = true; lives;) {
    try {
      const Examination examination = examine(sleeper.pid(), options);
      Capture capture(examination, options, {});
      drain(capture);
    } catch (const std::exception&) {
      lives = false;
    }
  }
  CHECK(sleeper.finish() == 0);
}

TEST_CASE("a held original stays stopped until it is released, and is none the wiser", "[ptrace]") {
  Child child([] {});
  Options options;
  options.move = true;
  const Examination examination = examine(child.pid(), options);
  {
    Capture capture(examination, options, {});
    drain(capture);
    capture.hold_original();
    capture.release();
  }
  CHECK(child.finish() == 0);
}

TEST_CASE("what can't be carried is named with the option that accepts its loss", "[ptrace]") {
  // A pipe from this process, as descriptors 3 and 4 too.
  Child child([&] {
    for (int fd = 3; fd <= 4; ++fd)
      if (::open("/proc/self/fd/0", O_RDONLY) != fd) ::_exit(98);
  });
  Options options;
  try {
    examine(child.pid(), options);
    FAIL("pipes were accepted");
  } catch (const Refusal& refusal) {
    CHECK(refusal.failure() == Failure::cannot_carry);
    REQUIRE(refusal.reasons().size() == 2);
    CHECK(refusal.reasons()[0].what.find("descriptor 3 is a pipe (pipe:[") != std::string::npos);
    CHECK(refusal.reasons()[0].advice.find("--drop-fd 3") != std::string::npos);
  }
  options.drop_fds = {3, 4};
  CHECK_NOTHROW(examine(child.pid(), options));
}

TEST_CASE("processes that can't be traced are told apart", "[ptrace]") {
  const auto what = [](pid_t pid) -> std::string {
    try {
      examine(pid, {});
    } catch (const Refusal& refusal) {
      CHECK(refusal.failure() == Failure::cannot_trace);
      return refusal.what();
    }
    return "accepted";
  };
  CHECK(what(::getpid()).find("itself") != std::string::npos);
  CHECK(what(4'000'000).find("no process") != std::string::npos);
  CHECK(what(2).find("kernel") != std::string::npos);
  const pid_t zombie = ::fork();
  if (zombie == 0) ::_exit(0);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT);
  CHECK(what(zombie).find("zombie") != std::string::npos);
  CHECK_THROWS_AS(ProcessMemory(zombie).read_value<int>(4096), ProcessGone);
  ::waitpid(zombie, nullptr, 0);
}
