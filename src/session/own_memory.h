// Of a process that lives long and does little.
#pragma once

namespace rfork::session {

/// Gives the kernel back what the calling process doesn't need now. Pages of files that were never
/// written to come back when they are needed.
void give_memory_back();

}  // namespace rfork::session
