// Instances of inotify(7): what they watch stands in /proc/PID/fdinfo by inode, and is named by
// path in the image.
//
// Events that nobody has read can't be had without taking them from the original, and can't be put
// into another instance. Where there are some, the child is told IN_Q_OVERFLOW in their place.
#pragma once

#include <string>
#include <vector>

#include "tracer/inventory.h"
#include "tracer/watched_files.h"

namespace rfork::tracer {

/// True for what /proc/PID/fd/N of an instance leads to.
bool is_inotify(const std::string& link);
/// Fills in the descriptions of `instances`, all other descriptions being there already. A watch
/// whose file has no name that can be found becomes an obstacle.
void describe_inotify(Inventory& inventory, const InventoryInput& input,
                      const std::vector<WatcherFd>& instances);

}  // namespace rfork::tracer
