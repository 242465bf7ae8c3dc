#include "base/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/error.h"
#include "base/io.h"

namespace rfork {

namespace {

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

OutputFile::OutputFile(const std::string& path, mode_t mode) : path_(path) {
  struct stat status {};
  if (path == "-") {
    fd_ = UniqueFd(::dup(STDOUT_FILENO));
  } else if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
    throw Refusal(Failure::usage, path + " is a directory", "name a file for the image");
  } else if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    fd_ = open_or_throw(path, O_WRONLY);
  } else {
    fd_ = try_open(directory_of(path), O_TMPFILE | O_RDWR, mode);
    unnamed_ = static_cast<bool>(fd_);
    if (!unnamed_) open_beside(mode);
  }
}

OutputFile::~OutputFile() {
  if (!beside_.empty()) ::unlink(beside_.c_str());
}

void OutputFile::write(std::span<const std::byte> data) {
  write_full(fd_.get(), data, path_);
}

void OutputFile::finish() {
  if (!unnamed_ && beside_.empty()) return;
  if (::fsync(fd_.get()) != 0) throw_errno("fsync", path_);
  const std::string link = fmt::format("/proc/self/fd/{}", fd_.get());
  if (unnamed_) {
    if (::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) == 0)
      return sync_directory();
    if (errno != EEXIST) throw_errno("link", path_);
    beside_ = fmt::format("{}.{}.part", path_, ::getpid());
    if (::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, beside_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      const int error = errno;
      beside_.clear();
      throw Error("link", error, path_);
    }
  }
  if (::rename(beside_.c_str(), path_.c_str()) != 0) throw_errno("rename", path_);
  beside_.clear();
  sync_directory();
}

void OutputFile::open_beside(mode_t mode) {
  beside_ = fmt::format("{}.{}.part", path_, ::getpid());
  fd_ = try_open(beside_, O_RDWR | O_CREAT | O_EXCL, mode);
  if (fd_) return;
  const int error = errno;
  beside_.clear();
  throw Error("create", error, path_);
}

// The name is on disk when its directory is.
void OutputFile::sync_directory() const {
  const UniqueFd directory = try_open(directory_of(path_), O_RDONLY | O_DIRECTORY);
  if (directory) ::fsync(directory.get());
}

}  // namespace rfork
