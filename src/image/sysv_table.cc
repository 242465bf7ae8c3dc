#include "image/sysv_table.h"

#include <cinttypes>
#include <cstdio>
#include <string>

namespace rfork::image {

namespace {

// Above the permissions (include/linux/shm.h).
constexpr uint32_t kDestroyed = 01000, kLocked = 02000;

}  // namespace

std::vector<SysvTableLine> parse_sysv_lines(std::string_view text) {
  std::vector<SysvTableLine> lines;
  while (!text.empty()) {
    const std::string line(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    SysvTableLine found;
    SysvSegment& segment = found.segment;
    // key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime rss swap
    // (ipc/shm.c)
    if (std::sscanf(line.c_str(),
                    "%" SCNd32 " %" SCNd32 " %" SCNo32 " %" SCNu64 " %" SCNd32 " %*d %" SCNu64
                    " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %*u %*u %" SCNd64,
                    &segment.key, &segment.id, &segment.mode, &segment.size, &segment.creator,
                    &found.attached, &segment.uid, &segment.gid, &segment.creator_uid,
                    &segment.creator_gid, &segment.changed_s) != 11) {
      continue;  // the head
    }
    segment.removed = (segment.mode & kDestroyed) != 0;
    segment.locked = (segment.mode & kLocked) != 0;
    segment.mode &= 0777;
    lines.push_back(found);
  }
  return lines;
}

std::vector<SysvSegment> parse_sysv_table(std::string_view text) {
  std::vector<SysvSegment> segments;
  for (const SysvTableLine& line : parse_sysv_lines(text)) segments.push_back(line.segment);
  return segments;
}

}  // namespace rfork::image
