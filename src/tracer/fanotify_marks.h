// Groups of fanotify(7): what they mark stands in /proc/PID/fdinfo by inode, mount or device, and
// is named by path in the image.
//
// As of inotify, events that nobody has read stay with the original; the child is told
// FAN_Q_OVERFLOW in their place. Groups that are asked for permission aren't carried: whoever opens
// a file that they mark waits for their answer, and so would the restore itself.
#pragma once

#include <string>
#include <vector>

#include "tracer/inventory.h"
#include "tracer/watched_files.h"

namespace rfork::tracer {

/// True for what /proc/PID/fd/N of a group leads to.
bool is_fanotify(const std::string& link);
/// Fills in the descriptions of `groups`, all other descriptions being there already. What can't be
/// marked again becomes an obstacle.
void describe_fanotify(Inventory& inventory, const InventoryInput& input,
                       const std::vector<WatcherFd>& groups);

}  // namespace rfork::tracer
