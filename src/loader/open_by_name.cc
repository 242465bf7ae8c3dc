// What a description opens by its name, or by the image's contents of the file.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/io.h"
#include "loader/open_files.h"

namespace rfork::loader {

using image::Description;

namespace {

struct KnownDevice {
  const char* path;
  unsigned major, minor;
};
constexpr KnownDevice kDevices[] = {
    {"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
};

bool is_same_device(const std::string& path, const struct stat& status) {
  if (!S_ISCHR(status.st_mode)) return false;
  const auto known = std::find_if(std::begin(kDevices), std::end(kDevices),
                                  [&](const KnownDevice& device) { return path == device.path; });
  return known == std::end(kDevices) || status.st_rdev == makedev(known->major, known->minor);
}

/// A path of the kernel's own file systems, which has no contents to compare.
bool is_kernel_path(const std::string& path) {
  return path.starts_with("/proc/") || path.starts_with("/sys/");
}

/// /proc/OLDPID/x is /proc/self/x.
std::string own_proc_path(const std::string& path, int32_t old_pid) {
  const std::string old = fmt::format("/proc/{}", old_pid);
  if (path == old || path.starts_with(old + "/")) return "/proc/self" + path.substr(old.size());
  return path;
}

}  // namespace

OpenFiles::Opened OpenFiles::open_file(const Description& description) {
  Opened opened;
  opened.flags = reopen_flags(description.flags);
  opened.offset = description.offset;
  if (description.kind == Description::Kind::regular && is_kernel_path(description.path)) {
    opened.child_path = own_proc_path(description.path, process_.pid);
    return opened;
  }
  opened.own = files_.open_description(description);
  opened.fd = opened.own.get();
  if (opened.own && (opened.flags & O_PATH) == 0) ::lseek(opened.fd, description.offset, SEEK_SET);
  return opened;
}

OpenFiles::Opened OpenFiles::check_device(const Description& description) {
  Opened opened;
  opened.child_path = description.path;
  opened.flags = reopen_flags(description.flags);
  struct stat status;
  if (::stat(description.path.c_str(), &status) < 0) {
    findings_.refuse(
        fmt::format("the device {} isn't here: {}", description.path, std::strerror(errno)));
  } else if (!is_same_device(description.path, status)) {
    findings_.refuse(fmt::format("{} is another kind of file here than the device that was open",
                                 description.path));
  } else if (description.path == "/dev/tty" && !try_open(description.path, O_RDWR | O_NOCTTY)) {
    findings_.warn("there is no terminal here: /dev/tty becomes /dev/null");
    opened.child_path = "/dev/null";
  }
  return opened;
}

namespace {

/// The thread of which `/proc/self/task/TID/…` tells, which is the same to it as
/// `/proc/thread-self/…`; 0: none but the leader. Its number may be another one here.
int32_t thread_of(const image::Process& process, std::string& path) {
  constexpr std::string_view kTask = "/proc/self/task/";
  if (!path.starts_with(kTask)) return 0;
  const size_t end = std::min(path.find('/', kTask.size()), path.size());
  const std::string number = path.substr(kTask.size(), end - kTask.size());
  for (size_t i = 1; i < process.threads.size(); ++i) {
    if (std::to_string(process.threads[i].tid) != number) continue;
    path.replace(0, end, "/proc/thread-self");
    return process.threads[i].tid;
  }
  return 0;
}

}  // namespace

/// The child opens it: what /proc/self is is its own.
OpenFiles::Opened OpenFiles::check_kernel_file(const Description& description) {
  Opened opened;
  opened.child_path = description.path;
  opened.thread = thread_of(process_, opened.child_path);
  opened.flags = reopen_flags(description.flags) & ~O_NOFOLLOW;  // /proc/self is a link
  opened.offset = description.offset;
  struct stat status;
  const bool own = description.path.starts_with("/proc/self") ||
                   description.path.starts_with("/proc/thread-self");
  if (!own && ::stat(description.path.c_str(), &status) != 0) {
    findings_.refuse(
        fmt::format("the open file {} isn't here: {}", description.path, std::strerror(errno)));
  }
  return opened;
}

namespace {

std::string target_of(const Description& link) {
  if (link.queued.empty()) return {};
  const Bytes& target = link.queued[0];
  return {reinterpret_cast<const char*>(target.data()), target.size()};
}

/// A symbolic link or FIFO that had the name and has none any more. Empty with errno set.
UniqueFd make_removed_path(const Description& description) {
  const std::string beside = fmt::format("{}.rfork-{}-path", description.path, ::getpid());
  const std::string elsewhere = fmt::format("/tmp/.rfork-{}-path", ::getpid());
  for (const std::string& name : {description.path, beside, elsewhere}) {
    const int made = S_ISFIFO(description.mode)
                         ? ::mkfifo(name.c_str(), 0600)
                         : ::symlink(target_of(description).c_str(), name.c_str());
    if (made != 0) continue;
    if (S_ISFIFO(description.mode)) ::chmod(name.c_str(), description.mode & 07777);
    UniqueFd fd = try_open(name, reopen_flags(description.flags));
    ::unlink(name.c_str());
    if (fd) return fd;
  }
  return {};
}

/// One that isn't here, as far as the image tells what it was. Empty with errno set.
UniqueFd make_path(const Description& description, CreatedFiles& created, Findings& findings) {
  const bool fifo = S_ISFIFO(description.mode);
  if (!fifo && target_of(description).empty()) return {};
  std::vector<std::string> made;
  if (!created.make_directories(
          description.path.substr(0, std::max<size_t>(description.path.rfind('/'), 1)), &made)) {
    return {};
  }
  for (const std::string& directory : made) findings.warn("created directory " + directory);
  const std::string name = fifo ? created.create_fifo(description.path, description.mode)
                                : created.create_symlink(target_of(description), description.path);
  return name.empty() ? UniqueFd() : try_open(name, reopen_flags(description.flags));
}

}  // namespace

OpenFiles::Opened OpenFiles::open_bare_path(const Description& description) {
  const image::File* const there =
      description.file ? image::find_id(snapshot_.files, *description.file) : nullptr;
  Opened opened;
  if (description.removed) {
    opened = own(make_removed_path(description));
  } else {
    opened = own(try_open(description.path, reopen_flags(description.flags)));
    if (!opened.own && errno == ENOENT)
      opened = own(make_path(description, files_.created(), findings_));
  }
  struct stat status;
  if (!opened.own || ::fstat(opened.fd, &status) != 0) {
    findings_.refuse(
        fmt::format("{} can't be opened here: {}", description.path, std::strerror(errno)),
        "go on without it with --drop-fd N");
  } else if (there != nullptr && ((status.st_mode ^ there->mode) & S_IFMT) != 0) {
    findings_.refuse(fmt::format("{} is another kind of file here", description.path));
  }
  return opened;
}

OpenFiles::Opened OpenFiles::removed_directory(const Description& description) {
  Opened opened = own(files_.created().removed_directory(description.path));
  if (!opened.own) {
    findings_.refuse(fmt::format("the open directory {}, which was removed, can't be made here: {}",
                                 description.path, std::strerror(errno)));
    return opened;
  }
  opened.own = reopen(opened.fd, description.flags);
  opened.fd = opened.own.get();
  return opened;
}

OpenFiles::Opened OpenFiles::check_directory(const Description& description) {
  if (description.removed) return removed_directory(description);
  Opened opened;
  opened.child_path = own_proc_path(description.path, process_.pid);
  opened.flags = reopen_flags(description.flags);
  opened.offset = description.offset;
  struct stat status;
  if (is_kernel_path(description.path) ||
      (::stat(description.path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))) {
    const image::File* const there =
        description.file ? image::find_id(snapshot_.files, *description.file) : nullptr;
    if (there != nullptr && files_.same_boot() && there->inode != status.st_ino) {
      findings_.warn(fmt::format("the open directory {} is another one than at the capture",
                                 description.path));
    }
    return opened;
  }
  std::vector<std::string> made;
  if (!files_.created().make_directories(description.path, &made)) {
    findings_.refuse(fmt::format("the open directory {} isn't here and can't be made: {}",
                                 description.path, std::strerror(errno)));
  }
  for (const std::string& path : made) findings_.warn("created directory " + path);
  return opened;
}

}  // namespace rfork::loader
