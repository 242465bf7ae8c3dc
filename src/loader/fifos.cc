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

constexpr int kOpen = O_NONBLOCK | O_NOFOLLOW;

/// A reading end of which poll(2) doesn't say that the writers have gone, for there was none since
/// it was opened.
bool is_unwritten(const Description& description) {
  return description.count != 0 && (description.flags & O_ACCMODE) == O_RDONLY;
}

UniqueFd again(const UniqueFd& fd, int flags) {
  return try_open(fmt::format("/proc/self/fd/{}", fd.get()), flags | O_NONBLOCK);
}

/// open(2) for writing fails with ENXIO while nobody reads: fifo(7).
bool somebody_reads(const std::string& path) {
  return static_cast<bool>(try_open(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW));
}

}  // namespace

/// How to open it for all of its ends. Not to write where nobody has: who has it open besides would
/// be told.
int Fifos::access_to(const Description& first) const {
  const bool quiet = first.queued.empty() &&
                     std::ranges::all_of(snapshot_.descriptions, [&](const Description& one) {
                       return one.kind != first.kind || one.other != first.id || is_unwritten(one);
                     });
  return quiet ? O_RDONLY : O_RDWR;
}

/// Its name is gone. Where a FIFO can't be made, a pipe does the same.
UniqueFd Fifos::make_removed(const Description& first) {
  const std::string beside = fmt::format("{}.rfork-{}-fifo", first.path, ::getpid());
  for (const std::string& name : {first.path, beside}) {
    if (::mkfifo(name.c_str(), 0600) != 0) continue;
    ::chmod(name.c_str(), first.mode & 07777);
    UniqueFd fd = try_open(name, access_to(first) | kOpen);
    ::unlink(name.c_str());
    if (fd) return fd;
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return {};
  const UniqueFd reader(ends[0]), writer(ends[1]);
  return again(reader, access_to(first));
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
  const int access = access_to(first);
  const bool in_use = access == O_RDWR && somebody_reads(first.path);
  UniqueFd fd = try_open(first.path, access | kOpen);
  if (!fd) {
    findings_.refuse(
        fmt::format("the FIFO {} can't be opened here: {}", first.path, std::strerror(errno)));
  } else if (!in_use) {
    fill_pipe(fd.get(), first, findings_);
  } else if (!same && !first.queued.empty()) {
    findings_.refuse(fmt::format(
        "the FIFO {} is in use here, and what the image has in it has no place in it", first.path));
  }
  return fd;
}

UniqueFd Fifos::make(const Description& first) {
  struct stat status {};
  if (!first.removed && ::lstat(first.path.c_str(), &status) == 0) return open_named(first);
  UniqueFd fd;
  if (first.removed) {
    fd = make_removed(first);
  } else {
    std::vector<std::string> made;
    const std::string folder = first.path.substr(0, std::max<size_t>(first.path.rfind('/'), 1));
    if (files_.created().make_directories(folder, &made)) {
      const std::string name = files_.created().create_fifo(first.path, first.mode);
      if (!name.empty()) fd = try_open(name, access_to(first) | kOpen);
    }
    for (const std::string& directory : made) findings_.warn("created directory " + directory);
  }
  if (!fd) {
    findings_.refuse(
        fmt::format("the FIFO {} can't be made here: {}", first.path, std::strerror(errno)));
    return fd;
  }
  fill_pipe(fd.get(), first, findings_);
  return fd;
}

/// All at once, for their order counts: what is open for writing is closed before a reading end is
/// opened that had no writer.
void Fifos::open_ends(const Description& first, Pipe& pipe) {
  std::vector<const Description*> ends;
  for (const Description& one : snapshot_.descriptions) {
    if (one.kind == Description::Kind::fifo && one.other == first.id) ends.push_back(&one);
  }
  std::ranges::stable_partition(ends, [](const auto* one) { return !is_unwritten(*one); });
  for (const Description* one : ends) {
    if (is_unwritten(*one)) pipe.own = again(pipe.own, O_RDONLY);
    UniqueFd fd = again(pipe.own, one->flags & (O_ACCMODE | O_DIRECT));
    if (fd) {
      set_status_flags(fd.get(), one->flags);
    } else {
      findings_.refuse(
          fmt::format("the FIFO {} can't be opened here: {}", one->path, std::strerror(errno)));
    }
    pipe.ends[one->id] = std::move(fd);
  }
}

UniqueFd Fifos::open(const Description& description) {
  const Description* const first = image::find_id(snapshot_.descriptions, description.other);
  if (first == nullptr) return {};
  const auto [found, added] = pipes_.try_emplace(first->id);
  Pipe& pipe = found->second;
  if (added) pipe.own = make(*first);
  if (added && pipe.own) open_ends(*first, pipe);
  const auto end = pipe.ends.find(description.id);
  return end == pipe.ends.end() ? UniqueFd() : std::move(end->second);
}

}  // namespace rfork::loader
