#include "session/spool.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/io.h"
#include "base/text.h"
#include "session/messages.h"

namespace rfork::session {

namespace {

constexpr std::string_view kPrefix = "rfork-";
constexpr std::string_view kSuffix = ".spool";
constexpr time_t kStaleAfter_s = 24 * 60 * 60;  ///< no writer pauses for so long

constexpr const char* kOneDirectory = "--spool names one directory on both hosts, as each sees it";

bool is_spool_name(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return false;
  return name.size() >= kPrefix.size() + kSuffix.size() &&
         is_move_id(name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()));
}

/// What crashes of both ends have left. `now` is by the clock of who keeps the files, so that
/// another host's wrong clock costs nobody a file.
void sweep(const std::string& directory, time_t now) {
  const std::unique_ptr<DIR, int (*)(DIR*)> list(::opendir(directory.c_str()), ::closedir);
  if (!list) return;
  const int at = ::dirfd(list.get());
  while (const dirent* const entry = ::readdir(list.get())) {
    struct stat status {};
    if (!is_spool_name(entry->d_name)) continue;
    if (::fstatat(at, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISREG(status.st_mode) && status.st_mtime < now - kStaleAfter_s) {
      ::unlinkat(at, entry->d_name, 0);
    }
  }
}

/// Whether only this user can enter it, so that whatever is in there is this user's doing.
bool is_private(const std::string& directory) {
  struct stat status {};
  return ::stat(directory.c_str(), &status) == 0 && status.st_uid == ::geteuid() &&
         (status.st_mode & (S_IRWXG | S_IRWXO)) == 0;
}

[[noreturn]] void refuse(std::string what, std::string advice) {
  throw Refusal(Failure::destination_refused, std::move(what), std::move(advice));
}

}  // namespace

std::string spool_name(std::string_view move_id) {
  return fmt::format("{}{}{}", kPrefix, move_id, kSuffix);
}

void check_spool(const std::string& directory) {
  if (try_open(directory, O_PATH | O_DIRECTORY)) return;
  throw Refusal(Failure::usage, fmt::format("the spool {}: {}", directory, std::strerror(errno)),
                "name a directory that both hosts see");
}

SpoolFile::SpoolFile(const std::string& directory, std::string_view move_id, uid_t owner)
    : directory_(directory), path_(directory + '/' + spool_name(move_id)) {
  check_spool(directory);
  fd_ = try_open(path_, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (!fd_) {
    throw Refusal(Failure::usage,
                  fmt::format("nothing can be written into the spool {}: {}", directory,
                              std::strerror(errno)),
                  "name a directory that both hosts see and this user may write into");
  }
  // A file server that takes root for nobody refuses; the destination says what it makes of it.
  if (::geteuid() == 0 && owner != 0) {
    [[maybe_unused]] const int ignored = ::fchown(fd_.get(), owner, static_cast<gid_t>(-1));
  }
  struct stat status {};
  if (::fstat(fd_.get(), &status) == 0) sweep(directory, status.st_mtime);
}

SpoolFile::~SpoolFile() {
  ::unlink(path_.c_str());
}

void SpoolFile::write(std::span<const std::byte> data) {
  try {
    write_full(fd_.get(), data, path_);
  } catch (const Error& error) {
    errno = error.code().value();
    refuse_to_write();
  }
  size_ += data.size();
}

void SpoolFile::finish() {
  // Where NFS tells of a full disk: at the latest when the file is closed.
  if (::fsync(fd_.get()) != 0 || ::close(fd_.release()) != 0) refuse_to_write();
}

void SpoolFile::refuse_to_write() const {
  const int error = errno;
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  throw Refusal(Failure::internal,
                fmt::format("the image can't be written into the spool {} after {} of it: {}",
                            directory_, human_bytes(size_), std::strerror(error)),
                full ? "make room there, or leave --spool out" : "leave --spool out");
}

SpooledImage::SpooledImage(std::string directory, std::string_view move_id, ChosenUser user)
    : directory_(std::move(directory)),
      path_(directory_ + '/' + spool_name(move_id)),
      user_(std::move(user)) {
  if (directory_.empty()) {
    refuse("rforkd has no spool through which the image could come",
           "start it with --spool DIR, the directory as that host sees it, or leave --spool out");
  }
  own_rights_ = is_private(directory_);
  struct stat status {};
  (void)open_checked(status);
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

SpooledImage::~SpooledImage() {
  try {
    if (adopted_) remove();
  } catch (const std::exception&) {
    // The client removes it too, and a day later whoever uses the spool.
  }
}

UniqueFd SpooledImage::take(uint64_t size) {
  struct stat status {};
  UniqueFd fd = open_checked(status);
  if (status.st_dev != device_ || status.st_ino != inode_) {
    refuse(fmt::format("{} is another file than it was before", path_), kOneDirectory);
  }
  remove();
  adopted_ = false;
  const auto here = static_cast<uint64_t>(status.st_size);
  if (here != size) {
    refuse(fmt::format("the spooled image has {} bytes here, but {} were written", here, size),
           here < size
               ? "mount the spool so that a file shows at its opening what another host has "
                 "written (sshfs: -o dir_cache=no), or leave --spool out"
               : "try again, or leave --spool out");
  }
  return fd;
}

/// Nothing is done to what isn't a spool file: not even a fifo's other end is woken.
UniqueFd SpooledImage::open_checked(struct stat& status) const {
  std::optional<ActingAs> acting;
  if (!own_rights_) acting.emplace(user_);
  UniqueFd fd = try_open(path_, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (!fd && errno == ENOENT) {
    refuse(fmt::format("rforkd's spool {} isn't the directory of rfork-trace's", directory_),
           kOneDirectory);
  }
  if (!fd) {
    refuse(fmt::format("{} in rforkd's spool {} can't be read by {}: {}",
                       path_.substr(directory_.size() + 1), directory_, user_.name,
                       std::strerror(errno)),
           "run rfork-trace as that user, or leave --spool out");
  }
  if (::fstat(fd.get(), &status) != 0) throw_errno("fstat", path_);
  if (!S_ISREG(status.st_mode) || status.st_nlink != 1) {
    refuse(fmt::format("{} is no file of rfork-trace's", path_), "use another directory");
  }
  if (status.st_uid != user_.uid && !(own_rights_ && status.st_uid == ::geteuid())) {
    refuse(fmt::format("{} belongs to uid {}, and not to {}", path_, status.st_uid, user_.name),
           "run rfork-trace as that user, or leave --spool out");
  }
  return fd;
}

void SpooledImage::remove() const {
  std::optional<ActingAs> acting;
  if (!own_rights_) acting.emplace(user_);
  struct stat status {};
  if (::lstat(path_.c_str(), &status) != 0) return;
  if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
}

}  // namespace rfork::session
