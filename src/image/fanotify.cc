#include "image/fanotify.h"

#include <algorithm>

namespace rfork::image {

bool needs_privilege(const FanotifyGroup& group) {
  constexpr uint32_t kIds = FAN_REPORT_FID | FAN_REPORT_DIR_FID | kFanReportMount;
  constexpr uint32_t kAnyones =
      kIds | FAN_REPORT_NAME | FAN_REPORT_TARGET_FID | FAN_CLOEXEC | FAN_NONBLOCK;
  return (group.flags & ~kAnyones) != 0 || (group.flags & kIds) == 0 ||
         std::ranges::any_of(group.marks,
                             [](const FanotifyMark& mark) { return (mark.flags & kFanWide) != 0; });
}

}  // namespace rfork::image
