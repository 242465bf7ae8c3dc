// Finds a name for an inode that the kernel tells of by number only (a watch of inotify(7),
// a mark of fanotify(7)).
//
// No call turns an inode into a path. Looked at are, in this order: the names that the process
// itself has (directory, open and mapped files, arguments, environment), what
// open_by_handle_at(2) gives to who may use it, and the directories around those names and below
// the mount points, breadth first, for a while. What is found is compared by inode and file handle.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/io.h"

namespace rfork::tracer {

/// An inode as /proc/PID/fdinfo names it.
struct WantedInode {
  uint64_t device = 0;  ///< of the super block, makedev(3); btrfs shows another one in stat(2)
  uint64_t inode = 0;
  int handle_type = 0;
  Bytes handle;  ///< name_to_handle_at(2); empty: the file system has none
};

struct FoundName {
  std::string path;            ///< absolute, as the process sees it
  bool symbolic_link = false;  ///< the link itself is meant, not what it leads to
  int64_t change_time_ns = 0;  ///< st_ctim
};

/// Names that process `pid` can use, in the order of `wanted`; nullopt where none was found.
/// `known` are paths to look at first. Gives up after `patience`.
std::vector<std::optional<FoundName>> find_names(pid_t pid, std::span<const WantedInode> wanted,
                                                 const std::vector<std::string>& known,
                                                 std::chrono::milliseconds patience);

}  // namespace rfork::tracer
