#include "loader/created_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/error.h"
#include "base/io.h"

namespace rfork::loader {

namespace {

constexpr int kAttempts = 100;

std::string temporary_name(const std::string& path, int attempt) {
  return fmt::format("{}.rfork-{}-{}", path, ::getpid(), attempt);
}

}  // namespace

CreatedFiles::~CreatedFiles() {
  for (const Pending& file : files_) ::unlink(file.temporary.c_str());
  for (auto directory = directories_.rbegin(); directory != directories_.rend(); ++directory) {
    ::rmdir(directory->c_str());
  }
}

bool CreatedFiles::make_directories(const std::string& path, std::vector<std::string>* made) {
  for (size_t end = 1; end != std::string::npos && end <= path.size();) {
    end = path.find('/', end);
    const std::string part = path.substr(0, end);
    if (!part.empty() && part != "/") {
      if (::mkdir(part.c_str(), modes_.contains(part) ? 0700 : 0777) == 0) {
        directories_.push_back(part);
        if (made != nullptr) made->push_back(part);
      } else if (errno != EEXIST && errno != EROFS && errno != EACCES) {
        return false;
      }
    }
    if (end != std::string::npos) ++end;
  }
  struct stat status;
  if (::stat(path.c_str(), &status) < 0) return false;
  if (!S_ISDIR(status.st_mode)) {
    errno = ENOTDIR;
    return false;
  }
  return true;
}

UniqueFd CreatedFiles::removed_directory(const std::string& path) {
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  const std::string beside = fmt::format("{}.rfork-{}-directory", folder, ::getpid());
  for (const std::string& name : {path, beside, fmt::format("/tmp/.rfork-{}", ::getpid())}) {
    if (::mkdir(name.c_str(), 0700) != 0) continue;
    UniqueFd fd = try_open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    const int reason = errno;
    ::rmdir(name.c_str());
    errno = reason;
    return fd;
  }
  return {};
}

UniqueFd CreatedFiles::create(const std::string& path, bool replace) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::string temporary = temporary_name(path, attempt);
    UniqueFd fd = try_open(temporary, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (!fd && errno == EEXIST) continue;
    if (!fd) return fd;
    files_.push_back({temporary, path, replace});
    return fd;
  }
  return {};
}

bool CreatedFiles::link(int fd, const std::string& path, bool replace) {
  const std::string open = fmt::format("/proc/self/fd/{}", fd);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::string temporary = temporary_name(path, attempt);
    if (::linkat(AT_FDCWD, open.c_str(), AT_FDCWD, temporary.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      files_.push_back({temporary, path, replace});
      return true;
    }
    if (errno != EEXIST) return false;
  }
  return false;
}

std::string CreatedFiles::create_fifo(const std::string& path, mode_t mode) {
  std::string temporary = fmt::format("{}.rfork-{}-fifo", path, ::getpid());
  if (::mkfifo(temporary.c_str(), 0600) != 0) return {};
  ::chmod(temporary.c_str(), mode & 07777);
  files_.push_back({temporary, path, false});
  return temporary;
}

std::string CreatedFiles::create_symlink(const std::string& target, const std::string& path) {
  std::string temporary = fmt::format("{}.rfork-{}-link", path, ::getpid());
  if (::symlink(target.c_str(), temporary.c_str()) != 0) return {};
  files_.push_back({temporary, path, false});
  return temporary;
}

void CreatedFiles::keep() {
  while (!files_.empty()) {
    const Pending& file = files_.back();
    const unsigned flags = file.replace ? 0 : RENAME_NOREPLACE;
    int result = ::renameat2(AT_FDCWD, file.temporary.c_str(), AT_FDCWD, file.path.c_str(), flags);
    if (result < 0 && errno == EINVAL) {  // a file system without RENAME_NOREPLACE
      result = ::rename(file.temporary.c_str(), file.path.c_str());
    }
    if (result < 0) throw_errno("rename", file.path);
    files_.pop_back();
  }
  for (const std::string& directory : directories_) {
    if (const auto known = modes_.find(directory); known != modes_.end()) {
      ::chmod(directory.c_str(), known->second);
    }
  }
  directories_.clear();
}

}  // namespace rfork::loader
