#include "loader/watched_file.h"

#include <fmt/format.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/stat.h>

namespace rfork::loader {

namespace {

bool look_at(const std::string& path, bool link, struct stat& status) {
  return (link ? ::lstat(path.c_str(), &status) : ::stat(path.c_str(), &status)) == 0;
}

}  // namespace

WatchedFile watched_file(const image::InotifyWatch& watch) {
  return {watch.path, watch.inode, watch.change_time_ns, watch.object,
          (watch.mask & IN_DONT_FOLLOW) != 0};
}

WatchedFile watched_file(const image::FanotifyMark& mark) {
  return {mark.path, mark.inode, mark.change_time_ns, mark.object,
          (mark.flags & FAN_MARK_DONT_FOLLOW) != 0};
}

FoundFile find_watched(const HostFiles& files, const WatchedFile& file) {
  const int contents = file.object ? files.contents_of(*file.object) : files.contents_of(file.path);
  FoundFile found{contents >= 0 ? own_link(contents) : file.path, contents >= 0};
  struct stat status {};
  if (!look_at(found.path, file.link, status)) {
    found.missing = "isn't here";
  } else if (contents < 0 && files.same_boot() && status.st_ino != file.inode) {
    found.missing = "is another file by now";
  }
  return found;
}

bool changed_since(const HostFiles& files, const WatchedFile& file) {
  struct stat status {};
  if (!files.same_boot() || file.object || !look_at(file.path, file.link, status) ||
      status.st_ino != file.inode) {
    return false;
  }
  return status.st_ctim.tv_sec * 1'000'000'000 + status.st_ctim.tv_nsec != file.change_time_ns;
}

std::string own_link(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

}  // namespace rfork::loader
