#include "session/commit_keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/io.h"

namespace rfork::session {

namespace {

constexpr auto kAskFor = std::chrono::seconds(60);
constexpr auto kAskEvery = std::chrono::milliseconds(500);

void signal_original(int pidfd, int signal) {
  ::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0);
}

struct Commit {
  pid_t original;
  char move_id[32];
};

// The keeper's whole life. The pipe brings a Commit when one begins, a byte when it is over, and
// its end when rfork-trace is gone.
void keep(int pipe, const std::function<Resolution(const std::string&)>& ask,
          const std::function<std::string(pid_t, const std::string&)>& how_to_decide) {
  Commit commit;
  if (read_full(pipe, std::as_writable_bytes(std::span(&commit, 1)), "commit pipe") <
      sizeof commit) {
    return;
  }
  const std::string move_id(commit.move_id, sizeof commit.move_id);
  const UniqueFd original(static_cast<int>(::syscall(SYS_pidfd_open, commit.original, 0)));
  std::byte over{};
  if (read_full(pipe, std::span(&over, 1), "commit pipe") == 1) return;

  const auto deadline = std::chrono::steady_clock::now() + kAskFor;
  while (std::chrono::steady_clock::now() < deadline) {
    try {
      const Resolution resolution = ask(move_id);
      if (resolution.state == Resolution::State::unknown) break;
      const bool went = resolution.state != Resolution::State::aborted;
      signal_original(original.get(), went ? SIGKILL : SIGCONT);
      return;
    } catch (const std::exception&) {
      std::this_thread::sleep_for(kAskEvery);
    }
  }
  std::fputs(fmt::format("rfork-trace: {}\n", how_to_decide(commit.original, move_id)).c_str(),
             stderr);
}

}  // namespace

CommitKeeper::CommitKeeper(std::function<Resolution(const std::string&)> ask,
                           std::function<std::string(pid_t, const std::string&)> how_to_decide) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) throw_errno("pipe2");
  UniqueFd reader(fds[0]);
  pipe_ = UniqueFd(fds[1]);
  keeper_ = ::fork();
  if (keeper_ < 0) throw_errno("fork");
  if (keeper_ != 0) return;
  pipe_.reset();
  ::setsid();  // neither the terminal's Ctrl-C nor a signal to our group reaches it
  int status = 0;
  try {
    keep(reader.get(), ask, how_to_decide);
  } catch (const std::exception& error) {
    status = report_failure("rfork-trace", error);
  }
  ::_exit(status);
}

CommitKeeper::~CommitKeeper() {
  pipe_.reset();
  if (keeper_ > 0) ::waitpid(keeper_, nullptr, 0);
}

void CommitKeeper::commit_begins(pid_t original, const std::string& move_id) {
  Commit commit{original, {}};
  move_id.copy(commit.move_id, sizeof commit.move_id);
  write_full(pipe_.get(), std::as_bytes(std::span(&commit, 1)), "commit pipe");
}

void CommitKeeper::commit_ends() {
  write_full(pipe_.get(), as_bytes("."), "commit pipe");
}

}  // namespace rfork::session
