// Locks of files, and leases, as a descriptor has them.
#pragma once

#include "tracer/inventory.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

/// Whether the process holds any lease.
bool holds_lease(pid_t pid);
/// Whether opening the file would break the process's own lease.
bool has_write_lease(const Locks& locks);

/// Adds them to `description`, which descriptor `fd` has; what can't be carried becomes an
/// obstacle. After the mappings.
void add_locks(Inventory& inventory, int fd, const Locks& locks, image::Description& description);

}  // namespace rfork::tracer
