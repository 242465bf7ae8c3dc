// System calls that our stop interrupted: how the thread goes on as if nothing had been.
//
// A blocked call that is interrupted leaves -ERESTART* in rax, and the kernel winds the thread back
// when it runs on. The image must be wound back already: there the call is simply made again. For a
// call with a relative time-out the kernel keeps the deadline in a restart block, which no other
// host and no signal frame has: the call is made again with the rest of its time. Some calls
// (epoll_wait, sigtimedwait, semop, see signal(7)) give EINTR even for a stop; a program would see
// an error that it would not have seen, so they are made again too, at the origin as well.
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <optional>

#include "base/io.h"
#include "image/model.h"
#include "tracer/process_memory.h"
#include "tracer/stopped_process.h"

namespace rfork::tracer {

/// Bytes below the stack pointer that belong to the function that runs (System V ABI, 3.2.2).
inline constexpr uint64_t kRedZone = 128;
/// Bytes below those in which the rest of a time-out may stand.
inline constexpr uint64_t kTimeOutRoom = 32;

struct GoingOn {
  user_regs_struct registers{};  ///< to run on with
  bool again = false;            ///< they make an interrupted call again
  std::optional<image::MemoryPatch>
      patch;  ///< memory that these registers need (a shorter time-out, below the red zone)
  /// The origin's thread needs these registers too: it would see EINTR, or the next capture
  /// couldn't tell how much of the time-out has passed.
  bool at_origin_too = false;
};

/// Whether system call `number` may wait for a time that counts from now, so that how long it has
/// waited matters.
bool may_have_relative_time_out(long number);

/// How `thread` goes on elsewhere, or after a signal frame took the place of the kernel's restart
/// block. `slept_ns` is how long it had waited in this very call, 0 when that isn't known: a
/// time-out then starts anew (never shorter than it was). `signal_waits`: an unblocked signal is
/// pending, so that an EINTR is the program's own.
GoingOn after_interruption(const StoppedThread& thread, const ProcessMemory& memory,
                           int64_t slept_ns, bool signal_waits);

}  // namespace rfork::tracer
