// What a watch of inotify(7) or a mark of fanotify(7) names, on this host.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "image/model.h"
#include "loader/host_files.h"

namespace rfork::loader {

/// As the image has it; refers to it.
struct WatchedFile {
  const std::string& path;
  uint64_t inode = 0;
  int64_t change_time_ns = 0;
  std::optional<uint32_t> object;
  bool link = false;  ///< a symbolic link itself
};
WatchedFile watched_file(const image::InotifyWatch& watch);
WatchedFile watched_file(const image::FanotifyMark& mark);

struct FoundFile {
  std::string path;               ///< by which it can be watched
  bool carried = false;           ///< its contents come from the image
  const char* missing = nullptr;  ///< why there is nothing to be watched: "isn't here"
};
FoundFile find_watched(const HostFiles& files, const WatchedFile& file);
/// Whether it was changed since the capture, as far as this kernel was there.
bool changed_since(const HostFiles& files, const WatchedFile& file);

std::string own_link(int fd);

}  // namespace rfork::loader
