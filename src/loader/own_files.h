// Files that are opened again, and new ones: also where the mode forbids their owner what an open
// descriptor may do, by open(2) with O_CREAT or by chmod(2) since.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/unique_fd.h"

namespace rfork::loader {

/// open(2) of `path` that doesn't wait: a FIFO may have the name by now, or somebody a lease on the
/// file. Empty with errno set.
UniqueFd open_at_once(const std::string& path, int flags);

/// The same for a file which `flags` don't create. Where the mode of a regular file of the caller's
/// forbids it, the mode allows it for that moment. Empty with errno set.
UniqueFd open_as_owner(const std::string& path, int flags);

/// open_at_once() by root that acts as another user (ActAs), with root's rights. Empty with errno
/// set, also for who isn't root.
UniqueFd open_as_root(const std::string& path, int flags);

/// What a new file gets when all is written to it.
struct FinalMode {
  int fd = -1;
  uint32_t mode = 0;
  std::optional<int64_t> mtime_ns;
};

/// Gives a new file that `mode`, as far as the caller may, and then one by which it can be opened
/// and written still. Writing takes set-id bits away, too.
FinalMode begin_with_mode(int fd, uint32_t mode);

}  // namespace rfork::loader
