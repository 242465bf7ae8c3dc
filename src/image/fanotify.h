// What groups of fanotify(7) may be and need: asked by capture, validation and restore alike.
#pragma once

#include <sys/fanotify.h>

#include <cstdint>

#include "image/description.h"

namespace rfork::image {

// Of later kernels' <linux/fanotify.h>.
inline constexpr uint32_t kFanReportFdError = 0x2000, kFanReportMount = 0x4000;
inline constexpr uint64_t kFanPreAccess = 0x100000;

/// Events that wait for an answer of the group's, and with them the process that caused them.
inline constexpr uint64_t kFanPermissions =
    FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM | kFanPreAccess;
/// How the ignored events of a mark are given.
inline constexpr uint32_t kFanIgnoreFlags =
    FAN_MARK_IGNORE | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY;
/// A mark is of a mount or of a file system, not of one inode.
inline constexpr uint32_t kFanWide = FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM;
/// What a mark of an image may have.
inline constexpr uint32_t kFanMarkFlags = kFanWide | FAN_MARK_DONT_FOLLOW | FAN_MARK_EVICTABLE |
                                          FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY;

/// Whether only a process with CAP_SYS_ADMIN in the initial user namespace can make it:
/// fanotify_init(2), fanotify_mark(2).
bool needs_privilege(const FanotifyGroup& group);

}  // namespace rfork::image
