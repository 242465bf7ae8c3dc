#include "tracer/mounts.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/io.h"

namespace rfork::tracer {

std::vector<Mount> mounts_of(pid_t pid) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/mountinfo", pid));
  return text ? parse_mountinfo(*text) : std::vector<Mount>{};
}

}  // namespace rfork::tracer
