// SysV shared memory, made with the id that it is to have.
#pragma once

#include "plan.h"

namespace rfork::stub {

/// 0, or -errno: -EEXIST when the id can't be had.
long make_segment(loader::plan::Segment& segment);
/// For the end of a process that doesn't become the child.
void remove_segments(const loader::plan::Header& header);

}  // namespace rfork::stub
