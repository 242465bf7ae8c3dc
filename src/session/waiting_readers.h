// Who waits to read what was given to a child, as far as /proc tells.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace rfork::session {

/// For one who waits in poll(2) and the like, or in a call that doesn't say how much it takes.
inline constexpr size_t kSomeBytes = 4096;

/// How many bytes `pid` or a process that it made waits to read of what has this inode; 0: nobody
/// does. One with a non-blocking descriptor needs not be seen waiting. More than 0, too, where the
/// kernel doesn't tell.
size_t bytes_wanted(pid_t pid, uint64_t inode);
/// The same of all other processes that have it: they may have lost their parents. Slow.
size_t bytes_wanted_by_holders(uint64_t inode);

}  // namespace rfork::session
