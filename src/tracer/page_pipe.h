// The pages of a forked copy, read through a pipe into which the copy puts them by vmsplice(2): one
// copy of the bytes, where /proc/PID/mem makes two.
//
// The kernel reads /proc/PID/mem page by page through a page of its own. A spliced page is only
// referred to until it is read, and the reference, unlike the pin of process_vm_readv(2), doesn't
// make the kernel copy a page that the original still shares.
#pragma once

#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/range.h"
#include "base/unique_fd.h"
#include "tracer/process_memory.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

class PagePipe {
 public:
  /// Through `calls` of the stopped copy whose memory is `memory`; it gets a descriptor table of
  /// its own, and a page at an address that nothing else uses. Null where that can't be had (a
  /// small pipe, system calls that are forbidden): /proc/PID/mem it is, then. `memory` outlives
  /// this, and `calls` may end before.
  static std::unique_ptr<PagePipe> make(RemoteSyscalls& calls, const ProcessMemory& memory);

  /// Reads `buffer.size()` bytes at `address`, within a run of pages that ends at `run_end`. Each
  /// run is read from its start to its end before the next. Throws Error, ProcessGone.
  void read(uint64_t address, std::span<std::byte> buffer, uint64_t run_end);

 private:
  PagePipe(const ProcessMemory& memory, uint64_t page, int in, UniqueFd out, size_t capacity);
  bool splice(uint64_t address, uint64_t size);

  const ProcessMemory& memory_;
  uint64_t page_;  // of the copy: code, then an iovec
  int in_;         // the copy's number of the pipe's end
  UniqueFd out_;
  size_t capacity_;
  user_regs_struct registers_{};
  bool ready_ = false;
  Range queued_;  // what the pipe holds
};

}  // namespace rfork::tracer
