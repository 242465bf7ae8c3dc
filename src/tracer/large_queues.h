// What is queued in pipes and sockets stands in the image's notes, which have a largest size.
#pragma once

#include "tracer/inventory.h"

namespace rfork::tracer {

/// Adds an obstacle for each queue that no note holds, and for all of them when they are too much
/// together. Of a stopped process, whose queues have been read.
void find_large_queues(Inventory& inventory);

}  // namespace rfork::tracer
