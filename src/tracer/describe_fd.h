// How the large kinds of descriptors are described, each in a file of its own; the rest, and what
// decides between them, is inventory_descriptors.cc.
#pragma once

#include "tracer/inventory.h"
#include "tracer/open_fd.h"

namespace rfork::tracer {

/// A regular file or directory. False, with an obstacle noted, when it can't be carried.
bool describe_file(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                   image::Description& description);
/// A pipe, stream socket or terminal that leads elsewhere, and goes on through a ghost. False: it
/// is none of them, or no ghost will be there.
bool describe_relay(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                    image::Description& description);

}  // namespace rfork::tracer
