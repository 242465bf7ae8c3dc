#include "image/leases.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "base/io.h"

namespace rfork::image {

Leases Leases::of_this_host() {
  return Leases(try_read_file_at(AT_FDCWD, "/proc/locks").value_or(""));
}

Leases::Leases(std::string_view text) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string line(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    // 1: LEASE  ACTIVE    WRITE 4242 00:1f:5678 0 EOF
    char kind[16], state[16], type[16];
    int holder = 0;
    unsigned major = 0, minor = 0;
    unsigned long inode = 0;
    if (std::sscanf(line.c_str(), "%*d: %15s %15s %15s %d %x:%x:%lu", kind, state, type, &holder,
                    &major, &minor, &inode) != 7) {
      continue;
    }
    if (std::string_view(kind) != "LEASE") continue;
    // One that is being broken tells what it will become.
    const bool write = std::string_view(type) != "READ" || std::string_view(state) == "BREAKING";
    leases_.push_back({makedev(major, minor), inode, write, holder});
  }
}

std::optional<pid_t> Leases::broken_by_open(dev_t device, ino_t inode, int flags) const {
  if ((flags & O_PATH) != 0) return std::nullopt;
  const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
  const auto found = std::ranges::find_if(leases_, [&](const Lease& lease) {
    return lease.device == device && lease.inode == inode && (lease.write || writes);
  });
  if (found == leases_.end()) return std::nullopt;
  return found->holder;
}

std::optional<pid_t> Leases::broken_by_open(const std::string& path, int flags) const {
  struct stat status {};
  if (leases_.empty() || ::stat(path.c_str(), &status) != 0) return std::nullopt;
  return broken_by_open(status.st_dev, status.st_ino, flags);
}

}  // namespace rfork::image
