#include "tracer/mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/io.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

std::vector<Mount> mounts_of(pid_t pid) {
  std::vector<Mount> mounts;
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/mountinfo", pid));
  if (!text) return mounts;
  for (const std::string_view line : split(*text, '\n')) {
    const auto fields = split(line, ' ');
    const auto separator = std::ranges::find(fields, "-");
    unsigned major = 0, minor = 0;
    if (fields.size() < 5 || separator == fields.end() || separator + 1 == fields.end() ||
        std::sscanf(std::string(fields[2]).c_str(), "%u:%u", &major, &minor) != 2) {
      continue;
    }
    mounts.push_back({std::strtoull(std::string(fields[0]).c_str(), nullptr, 10),
                      std::string(fields[4]), makedev(major, minor), *(separator + 1) == "proc"});
  }
  return mounts;
}

}  // namespace rfork::tracer
