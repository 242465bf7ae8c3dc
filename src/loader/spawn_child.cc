// What runs in the processes that spawn() makes: only system calls, for the caller may have other
// threads whose locks this copy of it holds for ever.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>

#include "loader/spawn.h"

namespace rfork::loader {

namespace {

[[noreturn]] void fail(const SpawnRequest& request, int control_fd, int64_t step) {
  plan::Message message{};
  message.kind = plan::MessageKind::failed;
  message.index = step;
  message.error = errno;
  ::send(control_fd >= 0 ? control_fd : request.control_fd, &message, sizeof message, MSG_NOSIGNAL);
  ::_exit(127);
}

/// As much as the hard limits give: descriptors stand high during a restore, and the stub's own
/// layout must not be that of an unlimited stack. The plan sets the image's limits last.
void set_limits() {
  constexpr rlim_t kUsualStack = 8u << 20;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  if (::getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur > kUsualStack) {
    limit.rlim_cur = kUsualStack;
    ::setrlimit(RLIMIT_STACK, &limit);
  }
}

/// Puts the helpers at their numbers and closes all else. Sources that stand where a helper is to
/// go move away first.
bool place_descriptors(const HelperFds& helpers, int* control_fd) {
  const int count = static_cast<int>(helpers.sources.size());
  const int first = helpers.base, end = helpers.base + count;
  for (int i = 0; i < count; ++i) {
    int source = helpers.sources[static_cast<size_t>(i)];
    if (source >= first && source < end) {
      // The same source may be handed twice, so it stays open where it is until it is overwritten.
      source = ::fcntl(source, F_DUPFD, end);
      if (source < 0) return false;
      const_cast<HelperFds&>(helpers).sources[static_cast<size_t>(i)] =
          source;  // this process's own copy
    }
    if (i == 0) *control_fd = source;
  }
  for (int i = 0; i < count; ++i) {
    if (::dup2(helpers.sources[static_cast<size_t>(i)], first + i) < 0) return false;
    if (i == 0) *control_fd = first;
  }
  ::syscall(SYS_close_range, 0, first - 1, 0);
  ::syscall(SYS_close_range, end, UINT_MAX, 0);
  return true;
}

/// The stub needs this process's capabilities over its namespaces, which exec takes from all but
/// root.
void raise_ambient_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) < 0) return;
  for (auto& half : data) half.inheritable = half.permitted;
  if (::syscall(SYS_capset, &header, data) < 0) return;
  for (unsigned capability = 0; capability < 64; ++capability) {
    if ((data[capability / 32].permitted >> (capability % 32) & 1) != 0) {
      ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
    }
  }
}

size_t length_of(const char* text) {
  size_t length = 0;
  while (text[length] != '\0') ++length;
  return length;
}

/// Best effort; nothing when `text` is null.
void try_write(const char* path, const char* text) {
  if (text == nullptr) return;
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const ssize_t written = ::write(fd, text, length_of(text));
  ::close(fd);
}

}  // namespace

void become_stub(const SpawnRequest& request, bool raise_ambient, const char* plan_argument,
                 const char* oom_text, const char* dump_filter) {
  if (request.new_session) ::setsid();
  try_write("/proc/self/oom_score_adj", oom_text);
  try_write("/proc/self/coredump_filter", dump_filter);  // an exec keeps it
  set_limits();
  ::personality(0);  // may be forbidden; the hole lies where no layout is
  if (raise_ambient) raise_ambient_capabilities();
  int control_fd = -1;
  if (!place_descriptors(*request.helpers, &control_fd))
    fail(request, control_fd, plan::kStepDescriptors);
  char name[] = "rfork-stub";
  char* arguments[] = {name, const_cast<char*>(plan_argument), nullptr};
  char* environment[] = {nullptr};
  const int stub = request.helpers->base + request.stub_helper;
  ::syscall(SYS_execveat, stub, "", arguments, environment, AT_EMPTY_PATH);
  fail(request, control_fd, plan::kStepExec);
}

void live_as_init(pid_t child, int end_pipe) {
  ::prctl(PR_SET_NAME, "rfork-init");
  // Nothing of the caller is held open, neither its files nor its directory.
  if (end_pipe > 0) ::syscall(SYS_close_range, 0, end_pipe - 1, 0);
  ::syscall(SYS_close_range, end_pipe + 1, UINT_MAX, 0);
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd = 0; null >= 0 && fd < 3; ++fd) {
    if (fd != null) ::dup2(null, fd);
  }
  [[maybe_unused]] const int moved = ::chdir("/");
  sigset_t all;
  ::sigfillset(&all);  // blocked since before this process was made
  for (;;) {
    int status = 0;
    pid_t ended;
    while ((ended = ::waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED)) > 0) {
      if (ended != child) continue;
      // Stops too, for who stands in for the child elsewhere. The write may find nobody: the caller
      // has gone. SIGPIPE is blocked.
      [[maybe_unused]] const ssize_t written = ::write(end_pipe, &status, sizeof status);
      if (!WIFEXITED(status) && !WIFSIGNALED(status)) continue;
      ::_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    }
    siginfo_t info{};
    const int signal = ::sigwaitinfo(&all, &info);
    // From outside of the namespace (si_pid is 0 then) by kill(2). What a terminal sends, the child
    // gets itself.
    const bool sent = info.si_code <= 0 && info.si_pid == 0;
    if (signal > 0 && signal != SIGCHLD && sent) ::kill(child, signal);
  }
}

}  // namespace rfork::loader
