#include "loader/own_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <exception>

#include "base/io.h"

namespace rfork::loader {

namespace {

constexpr uint32_t kReadWrite = S_IRUSR | S_IWUSR;

}  // namespace

UniqueFd open_at_once(const std::string& path, int flags) {
  if ((flags & O_PATH) != 0) return try_open(path, flags);
  UniqueFd fd = try_open(path, flags | O_NONBLOCK | O_NOCTTY);
  if (fd && (flags & O_NONBLOCK) == 0)
    ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  return fd;
}

UniqueFd open_as_owner(const std::string& path, int flags) {
  UniqueFd fd = open_at_once(path, flags);
  if (fd || errno != EACCES) return fd;
  const UniqueFd file = try_open(path, O_PATH | (flags & O_NOFOLLOW));
  struct stat status {};
  // To set the set-group-id bit again takes more than to own the file: inode(7).
  if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_uid != ::geteuid() || (status.st_mode & S_ISGID) != 0) {
    errno = EACCES;
    return {};
  }
  const std::string link = fmt::format("/proc/self/fd/{}", file.get());
  const uint32_t mode = status.st_mode & 07777;
  if (::chmod(link.c_str(), mode | kReadWrite) == 0) {
    fd = open_at_once(link, flags & ~O_NOFOLLOW);
    ::chmod(link.c_str(), mode);
  }
  if (!fd) errno = EACCES;
  return fd;
}

UniqueFd open_as_root(const std::string& path, int flags) {
  const uid_t user = ::geteuid();
  if (::getuid() != 0 || user == 0 || ::seteuid(0) != 0) {
    errno = EACCES;
    return {};
  }
  UniqueFd fd = open_at_once(path, flags);
  const int reason = errno;
  if (::seteuid(user) != 0) std::terminate();  // nothing sensible can follow
  errno = reason;
  return fd;
}

FinalMode begin_with_mode(int fd, uint32_t mode) {
  struct stat status {};
  ::fchmod(fd, mode & 07777);
  const uint32_t reached = ::fstat(fd, &status) == 0 ? status.st_mode & 07777 : mode & 07777;
  if ((reached & kReadWrite) != kReadWrite) ::fchmod(fd, kReadWrite);
  return {fd, reached, std::nullopt};
}

}  // namespace rfork::loader
