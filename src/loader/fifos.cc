#include "loader/fifos.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/io.h"
#include "image/files.h"
#include "loader/kernel_objects.h"

namespace rfork::loader {

using image::Description;

namespace {

UniqueFd open_both_ways(const std::string& path) {
  return try_open(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW);
}

/// open(2) for writing fails with ENXIO while nobody reads: fifo(7).
bool somebody_reads(const std::string& path) {
  return static_cast<bool>(try_open(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW));
}

}  // namespace

/// Its name is gone. Where a FIFO can't be made, a pipe does the same.
UniqueFd Fifos::make_removed(const Description& first) {
  const std::string beside = fmt::format("{}.rfork-{}-fifo", first.path, ::getpid());
  for (const std::string& name : {first.path, beside}) {
    if (::mkfifo(name.c_str(), 0600) != 0) continue;
    ::chmod(name.c_str(), first.mode & 07777);
    UniqueFd both = open_both_ways(name);
    ::unlink(name.c_str());
    if (both) return both;
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return {};
  const UniqueFd reader(ends[0]), writer(ends[1]);
  return try_open(fmt::format("/proc/self/fd/{}", ends[0]), O_RDWR | O_NONBLOCK);
}

UniqueFd Fifos::open_named(const Description& first) {
  const image::File* const there =
      first.file ? image::find_id(snapshot_.files, *first.file) : nullptr;
  const UniqueFd name = try_open(first.path, O_PATH | O_NOFOLLOW);
  const image::File here = image::identify(name.get(), first.path);
  if (!S_ISFIFO(here.mode)) {
    findings_.refuse(
        fmt::format("{} is another kind of file here than the FIFO that was open", first.path));
    return {};
  }
  const bool same = there != nullptr && image::same_inode(*there, here, files_.same_boot());
  const bool in_use = somebody_reads(first.path);
  UniqueFd both = open_both_ways(first.path);
  if (!both) {
    findings_.refuse(
        fmt::format("the FIFO {} can't be opened here: {}", first.path, std::strerror(errno)));
  } else if (!in_use) {
    fill_pipe(both.get(), first, findings_);
  } else if (!same && !first.queued.empty()) {
    findings_.refuse(fmt::format(
        "the FIFO {} is in use here, and what the image has in it has no place in it", first.path));
  }
  return both;
}

UniqueFd Fifos::make(const Description& first) {
  struct stat status {};
  if (!first.removed && ::lstat(first.path.c_str(), &status) == 0) return open_named(first);
  UniqueFd both;
  if (first.removed) {
    both = make_removed(first);
  } else {
    std::vector<std::string> made;
    const std::string folder = first.path.substr(0, std::max<size_t>(first.path.rfind('/'), 1));
    if (files_.created().make_directories(folder, &made)) {
      const std::string name = files_.created().create_fifo(first.path, first.mode);
      if (!name.empty()) both = open_both_ways(name);
    }
    for (const std::string& directory : made) findings_.warn("created directory " + directory);
  }
  if (!both) {
    findings_.refuse(
        fmt::format("the FIFO {} can't be made here: {}", first.path, std::strerror(errno)));
    return both;
  }
  fill_pipe(both.get(), first, findings_);
  return both;
}

UniqueFd Fifos::open(const Description& description) {
  const Description* const first = image::find_id(snapshot_.descriptions, description.other);
  if (first == nullptr) return {};
  const size_t reasons = findings_.reasons.size();
  if (!both_.contains(first->id)) both_[first->id] = make(*first);
  const UniqueFd& both = both_[first->id];
  if (!both) return {};
  UniqueFd fd = try_open(fmt::format("/proc/self/fd/{}", both.get()),
                         (description.flags & (O_ACCMODE | O_DIRECT)) | O_NONBLOCK);
  if (fd) {
    set_status_flags(fd.get(), description.flags);
  } else if (findings_.reasons.size() == reasons) {
    findings_.refuse(fmt::format("the FIFO {} can't be opened here: {}", description.path,
                                 std::strerror(errno)));
  }
  return fd;
}

}  // namespace rfork::loader
