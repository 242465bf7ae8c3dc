#include "tracer/diag_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/io.h"

namespace rfork::tracer {

namespace {

UniqueFd socket_here(int protocol) {
  return UniqueFd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
}

bool same_file(const std::string& a, const std::string& b) {
  struct stat one {
  }, other{};
  return ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &other) == 0 &&
         one.st_ino == other.st_ino && one.st_dev == other.st_dev;
}

/// A namespace can be entered by a process of our own with the same descriptors, which makes the
/// socket there: setns(2) asks a process that enters a user namespace to have one thread.
UniqueFd socket_in(pid_t pid, int protocol) {
  const UniqueFd network = try_open(fmt::format("/proc/{}/ns/net", pid), O_RDONLY);
  const UniqueFd user = try_open(fmt::format("/proc/{}/ns/user", pid), O_RDONLY);
  if (!network) return {};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return {};
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const long child = ::syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
  if (child == 0) {
    if (::setns(network.get(), CLONE_NEWNET) != 0) {
      if (!user || ::setns(user.get(), CLONE_NEWUSER) != 0 ||
          ::setns(network.get(), CLONE_NEWNET) != 0) {
        ::_exit(1);
      }
    }
    const int fd = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    ::_exit(::write(writer.get(), &fd, sizeof fd) == sizeof fd ? 0 : 1);
  }
  if (child < 0) return {};
  while (::waitpid(static_cast<pid_t>(child), nullptr, 0) < 0 && errno == EINTR) {
  }
  writer.reset();
  int fd = -1;
  return UniqueFd(::read(reader.get(), &fd, sizeof fd) == sizeof fd ? fd : -1);
}

}  // namespace

UniqueFd netlink_socket(pid_t pid, int protocol) {
  const bool here = same_file(fmt::format("/proc/{}/ns/net", pid), "/proc/self/ns/net");
  return here ? socket_here(protocol) : socket_in(pid, protocol);
}

UniqueFd diag_socket(pid_t pid) {
  return netlink_socket(pid, NETLINK_SOCK_DIAG);
}

}  // namespace rfork::tracer
