// A copy-on-write snapshot of a stopped process's memory, so that the process itself can run on
// while its pages are read.
//
// Two injected clones: the process starts a helper that shares its memory, the helper forks the
// copy and ends, and the process reaps the helper. So the copy belongs to init, and the process
// never has a child that it did not make. The copy shares the descriptor table (no end of a pipe is
// held open longer), never runs, and is killed by the kernel if we die.
//
// Rejected: one clone with exit signal 0 (its zombie stays the process's until a second stop reaps
// it), CLONE_PARENT (the process's parent would see a stranger).
#pragma once

#include <sys/types.h>

#include <memory>

#include "tracer/process_memory.h"
#include "tracer/remote_syscalls.h"
#include "tracer/stopped_process.h"

namespace rfork::tracer {

class ForkedCopy {
 public:
  /// Forks through `calls` (of a stopped thread of the process). Null when the process forbids it
  /// (process or memory limits, a subreaper or init, which would inherit the copy): the memory must
  /// then be read while it stands still.
  static std::unique_ptr<ForkedCopy> make(RemoteSyscalls& calls, pid_t pid, unsigned options,
                                          const InjectionSite& site);
  /// Kills and reaps it.
  ~ForkedCopy();
  ForkedCopy(const ForkedCopy&) = delete;
  ForkedCopy& operator=(const ForkedCopy&) = delete;

  pid_t pid() const { return pid_; }
  const ProcessMemory& memory() const { return memory_; }

 private:
  explicit ForkedCopy(pid_t pid);
  pid_t pid_;
  ProcessMemory memory_;
};

}  // namespace rfork::tracer
