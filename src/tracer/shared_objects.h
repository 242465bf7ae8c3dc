// Kernel objects behind descriptors (eventfd, timerfd, epoll, ...) that another process has too: it
// inherited them, or was passed them. The two speak to each other through them, and a copy of the
// object elsewhere would be heard by nobody.
#pragma once

#include <string>
#include <vector>

#include "tracer/inventory.h"

namespace rfork::tracer {

struct KernelObjectFd {
  int fd = 0;
  std::string link;  ///< what /proc/PID/fd/N leads to: `anon_inode:...`
  std::string info;  ///< /proc/PID/fdinfo/N
};

bool descends_from(pid_t pid, pid_t ancestor);
/// comm.
std::string name_of(pid_t pid);

/// Adds an obstacle for each of `objects` that a process we may look at shares.
void refuse_shared_objects(Inventory& inventory, const InventoryInput& input,
                           std::vector<KernelObjectFd> objects);

}  // namespace rfork::tracer
