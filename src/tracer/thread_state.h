// Everything that belongs to one thread.
#pragma once

#include "image/model.h"
#include "tracer/interrupted_call.h"
#include "tracer/process_memory.h"
#include "tracer/remote_syscalls.h"
#include "tracer/stopped_process.h"

namespace rfork::tracer {

/// Leaves an rseq critical section by its abort address, as the kernel does when it preempts one:
/// in `thread`'s registers and in the process. Before any injected call, which would make the
/// kernel forget the section.
void abort_rseq_section(StoppedThread& thread, const ProcessMemory& memory);

struct CapturedThread {
  image::Thread thread;
  std::optional<image::MemoryPatch> patch;
  image::Credentials credentials;  ///< without the user's name
};

/// Reads the state of `thread`. Alternate stack, clear_child_tid and what it has set with prctl(2),
/// which nothing outside can read, by injected calls, which pass seccomp filters or are not made:
/// Refusal(cannot_carry). A call that gave EINTR because of us is wound
/// back at the origin too.
CapturedThread capture_thread(pid_t pid, StoppedThread& thread, const ProcessMemory& memory,
                              const InjectionSite& site, bool passes_filters);

}  // namespace rfork::tracer
