#include "loader/socket_names.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace rfork::loader {

namespace {

/// Binds in a process of its own, which shares our descriptors and whose directory is another.
/// 0, or an errno.
int bind_in(const std::string& directory, bool as_root, int fd, const Bytes& name) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno;
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const long child = ::syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
  if (child == 0) {
    bool there = ::chdir(directory.c_str()) == 0;
    if (there && as_root && ::chroot(".") != 0) {
      there = ::unshare(CLONE_NEWUSER) == 0 && ::chroot(".") == 0;
    }
    const auto* const address = reinterpret_cast<const sockaddr*>(name.data());
    // The kernel gives a path that fills the address with one NUL more than it takes.
    const auto size = static_cast<socklen_t>(std::min(name.size(), sizeof(sockaddr_un)));
    const bool bound = there && ::bind(fd, address, size) == 0;
    const int error = bound ? 0 : errno;
    ::_exit(::write(ends[1], &error, sizeof error) == sizeof error ? 0 : 1);
  }
  if (child < 0) return errno;
  while (::waitpid(static_cast<pid_t>(child), nullptr, 0) < 0 && errno == EINTR) {
  }
  writer.reset();
  int error = EIO;
  (void)!::read(reader.get(), &error, sizeof error);
  return error;
}

std::string directory_of(const std::string& path) {
  return std::filesystem::path(path).parent_path();
}

/// A new directory on a file system that takes sockets.
std::string new_directory() {
  for (const char* const where : {"/tmp", "/dev/shm", "/run", "."}) {
    std::string path = fmt::format("{}/rfork-names-XXXXXX", where);
    if (::mkdtemp(path.data()) != nullptr) return std::filesystem::absolute(path);
  }
  return {};
}

}  // namespace

int connect_to_path(int fd, const std::string& path) {
  // Through a descriptor, for a path may be longer than an address has room.
  const UniqueFd file(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!file) return errno;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string link = fmt::format("/proc/self/fd/{}", file.get());
  std::memcpy(address.sun_path, link.data(), link.size());
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? 0
                                                                                         : errno;
}

int probe_path(const std::string& path, int type) {
  // By a socket of another type, which a living one refuses without noticing (EPROTOTYPE).
  const UniqueFd other(
      ::socket(AF_UNIX, (type == SOCK_DGRAM ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0));
  const int error = connect_to_path(other.get(), path);
  return error == EPROTOTYPE ? 0 : error;
}

SocketNames::~SocketNames() {
  for (const std::string& path : made_) ::unlink(path.c_str());
  take_back();
}

void SocketNames::take_back() {
  std::error_code ignored;
  for (const std::string& path : elsewhere_) std::filesystem::remove_all(path, ignored);
  elsewhere_.clear();
}

std::string SocketNames::place(const Bytes& name) const {
  const std::string path = socket_path(name);
  return path.starts_with('/') ? path : cwd_ + "/" + path;
}

int SocketNames::bind_at_place(int fd, const Bytes& name) {
  const bool absolute = socket_path(name).starts_with('/');
  const int error = bind_in(absolute ? "/" : cwd_, false, fd, name);
  if (error == 0) made_.push_back(place(name));
  return error;
}

int SocketNames::bind_elsewhere(int fd, const Bytes& name, std::string& reach) {
  const std::string root = new_directory();
  if (root.empty()) return errno;
  elsewhere_.push_back(root);
  // Above a root directory there is nothing: "../x" is /x there.
  const std::filesystem::path inside = "/" + socket_path(name);
  const std::string path = root + inside.lexically_normal().string();
  std::error_code error;
  std::filesystem::create_directories(directory_of(path), error);
  const int failed = error ? error.value() : bind_in(root, true, fd, name);
  if (failed == 0) reach = path;
  return failed;
}

int SocketNames::lend(int fd, const Bytes& name, std::string& reach) {
  if (socket_path(name).empty()) {
    const auto* const address = reinterpret_cast<const sockaddr*>(name.data());
    return ::bind(fd, address, static_cast<socklen_t>(name.size())) == 0 ? 0 : errno;
  }
  const int error = bind_elsewhere(fd, name, reach);
  if (error == 0) return 0;
  // Without user namespaces at its place, if nothing is there.
  const bool absolute = socket_path(name).starts_with('/');
  if (bind_in(absolute ? "/" : cwd_, false, fd, name) != 0) return error;
  reach = place(name);
  elsewhere_.push_back(reach);
  return 0;
}

}  // namespace rfork::loader
