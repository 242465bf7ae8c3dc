#include "loader/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "base/io.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace rfork::loader {

namespace {

/// What a helper or init tells the caller: the child's pid, or what failed.
struct Report {
  int64_t step = 0;
  int error = 0;
  pid_t pid = 0;
};

/// Everything that the new processes need, written out before they are made.
struct Prepared {
  const SpawnRequest& request;
  bool raise_ambient = false;
  std::string plan_argument, oom_text, dump_filter, uid_map, gid_map, clock_text;
  int report_fd = -1, end_fd = -1;
};

long clone_process(uint64_t flags, pid_t wanted) {
  clone_args arguments{};
  arguments.flags = flags;
  arguments.exit_signal = (flags & CLONE_PARENT) != 0 ? 0 : SIGCHLD;
  arguments.set_tid = wanted != 0 ? reinterpret_cast<uint64_t>(&wanted) : 0;
  arguments.set_tid_size = wanted != 0 ? 1 : 0;
  const long pid = ::syscall(SYS_clone3, &arguments, sizeof arguments);
  if (pid >= 0 || errno != ENOSYS || wanted != 0) return pid;
  // A container's seccomp filter that can't look into clone3's arguments.
  return ::syscall(SYS_clone, flags | arguments.exit_signal, 0, 0, 0, 0);
}

[[noreturn]] void report_and_end(const Prepared& prepared, int64_t step, int error, pid_t pid) {
  const Report report{step, error, pid};
  const ssize_t written = ::write(prepared.report_fd, &report, sizeof report);
  ::_exit(written == sizeof report && error == 0 ? 0 : 1);
}

bool write_text(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int error = errno;
  ::close(fd);
  errno = error;
  return written;
}

/// In a process that has just got its user namespace: itself stays itself.
void map_own_ids(const Prepared& prepared) {
  if (!prepared.request.place.user_namespace) return;
  write_text("/proc/self/setgroups",
             "deny");  // absent before Linux 3.19; a privileged gid_map needs none
  if (!write_text("/proc/self/uid_map", prepared.uid_map) ||
      !write_text("/proc/self/gid_map", prepared.gid_map)) {
    report_and_end(prepared, plan::kStepNamespaces, errno, 0);
  }
}

/// The next process that is made will be in a time namespace.
void prepare_clocks(const Prepared& prepared) {
  if (!prepared.request.place.clocks) return;
  if (::unshare(CLONE_NEWTIME) < 0) report_and_end(prepared, plan::kStepNamespaces, errno, 0);
  if (!write_text("/proc/self/timens_offsets", prepared.clock_text)) {
    report_and_end(prepared, plan::kStepTimeOffsets, errno, 0);
  }
}

/// In a new pid and mount namespace. Where /proc can't be mounted (a container that hides parts of
/// it), the old one stays: its /proc/self is right, its numbers are not.
void mount_proc() {
  if (::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) < 0) return;
  ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
}

[[noreturn]] void exec_stub(const Prepared& prepared) {
  become_stub(prepared.request, prepared.raise_ambient, prepared.plan_argument.c_str(),
              prepared.oom_text.empty() ? nullptr : prepared.oom_text.c_str(),
              prepared.dump_filter.empty() ? nullptr : prepared.dump_filter.c_str());
}

/// Ends after it made the child, which is the caller's.
[[noreturn]] void be_helper(const Prepared& prepared) {
  const Place& place = prepared.request.place;
  map_own_ids(prepared);
  prepare_clocks(prepared);
  const uint64_t flags = CLONE_PARENT | (place.pid_namespace ? CLONE_NEWPID | CLONE_NEWNS : 0);
  const pid_t wanted = place.keep_ids && !place.pid_namespace ? prepared.request.pid : 0;
  const long child = clone_process(flags, wanted);
  if (child == 0) {
    if (place.pid_namespace) mount_proc();
    exec_stub(prepared);
  }
  if (child < 0) report_and_end(prepared, plan::kStepClone, errno, 0);
  report_and_end(prepared, 0, 0, static_cast<pid_t>(child));
}

/// Stays as pid 1 of the namespace.
[[noreturn]] void be_init(const Prepared& prepared) {
  map_own_ids(prepared);
  prepare_clocks(prepared);
  mount_proc();
  if (prepared.request.new_session) ::setsid();
  const long child = clone_process(0, prepared.request.pid);
  if (child == 0) exec_stub(prepared);
  if (child < 0) report_and_end(prepared, plan::kStepClone, errno, 0);
  const Report report{};
  if (::write(prepared.report_fd, &report, sizeof report) != sizeof report) ::_exit(1);
  live_as_init(static_cast<pid_t>(child), prepared.end_fd);
}

std::string clock_lines(const ClockOffsets& offsets) {
  const auto line = [](const char* clock, int64_t nanoseconds) {
    constexpr int64_t kSecond = 1'000'000'000;
    int64_t seconds = nanoseconds / kSecond, rest = nanoseconds % kSecond;
    if (rest < 0) --seconds, rest += kSecond;
    return fmt::format("{} {} {}\n", clock, seconds, rest);
  };
  return line("monotonic", offsets.monotonic_ns) + line("boottime", offsets.boottime_ns);
}

Prepared prepare(const SpawnRequest& request) {
  Prepared prepared{request};
  prepared.raise_ambient = request.place.user_namespace || ::geteuid() != 0;
  prepared.plan_argument = std::to_string(request.plan_number);
  if (request.oom_score_adj) prepared.oom_text = std::to_string(*request.oom_score_adj);
  if (request.dump_filter) prepared.dump_filter = std::to_string(*request.dump_filter);
  prepared.uid_map = fmt::format("{} {} 1", ::geteuid(), ::geteuid());
  prepared.gid_map = fmt::format("{} {} 1", ::getegid(), ::getegid());
  if (request.place.clocks) prepared.clock_text = clock_lines(*request.place.clocks);
  return prepared;
}

void reap(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

/// Reads the first process's report; a first process that died without one counts as a failure of
/// its step.
std::optional<Spawned> await_report(pid_t first, bool helper, int report_fd,
                                    SpawnFailure* failure) {
  Report report{plan::kStepNamespaces, EIO, 0};
  const bool got = read_full(report_fd, std::as_writable_bytes(std::span(&report, 1)), "report") ==
                   sizeof report;
  if (!got || report.error != 0) {
    reap(first);
    *failure = {report.step, report.error};
    return std::nullopt;
  }
  if (helper) reap(first);
  Spawned spawned;
  spawned.wait_pid = helper ? report.pid : first;
  spawned.has_init = !helper;
  return spawned;
}

std::pair<UniqueFd, UniqueFd> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) < 0) throw_errno("pipe2");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace

std::optional<Spawned> spawn(const SpawnRequest& request, SpawnFailure* failure) {
  const Place& place = request.place;
  Prepared prepared = prepare(request);
  auto [report_read, report_write] = make_pipe();
  auto [end_read, end_write] = make_pipe();
  prepared.report_fd = report_write.get();
  prepared.end_fd = end_write.get();
  const bool init = place.pid_namespace && request.pid != 1;
  const bool helper = !init && (place.pid_namespace || place.clocks || place.user_namespace);

  // With both, the user namespace is made first and owns the other.
  uint64_t flags = place.user_namespace ? CLONE_NEWUSER : 0;
  if (place.ipc_namespace) flags |= CLONE_NEWIPC;
  if (init) flags |= CLONE_NEWPID | CLONE_NEWNS;
  // The child keeps them blocked until its registers are loaded: libc's own two as well, which its
  // functions leave out.
  const uint64_t all = ~uint64_t{0};
  uint64_t before = 0;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
  const long first = clone_process(flags, !init && !helper && place.keep_ids ? request.pid : 0);
  if (first == 0) {
    if (init) be_init(prepared);
    if (helper) be_helper(prepared);
    exec_stub(prepared);
  }
  const int clone_error = errno;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, nullptr, sizeof before);
  if (first < 0) {
    *failure = {plan::kStepClone, clone_error};
    return std::nullopt;
  }
  report_write.reset();
  end_write.reset();
  std::optional<Spawned> spawned;
  if (init || helper) {
    spawned = await_report(static_cast<pid_t>(first), helper, report_read.get(), failure);
  } else {
    spawned.emplace();
    spawned->wait_pid = static_cast<pid_t>(first);
  }
  if (spawned) {
    spawned->drop_capabilities = prepared.raise_ambient;
    if (spawned->has_init) spawned->end_pipe = std::move(end_read);
  }
  return spawned;
}

}  // namespace rfork::loader
