// Which pages of shared memory there are. One that isn't there is made by whoever reads it through
// a mapping: a process with a large reservation would grow by all of it.
#pragma once

#include <vector>

#include "base/range.h"
#include "tracer/process_memory.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

class ResidentPages {
 public:
  /// Asks through `calls`, a thread of the process that `memory` is of. Both outlive this.
  ResidentPages(RemoteSyscalls& calls, const ProcessMemory& memory)
      : calls_(calls), memory_(memory) {}

  /// Runs of pages in order, outside of which there is nothing in `addresses`, which are of one
  /// mapping of shared memory (not of huge pages). All of them where that can't be known.
  std::vector<Range> within(const Range& addresses) const;

 private:
  bool may_be_swapped(const Range& addresses) const;

  RemoteSyscalls& calls_;
  const ProcessMemory& memory_;
};

}  // namespace rfork::tracer
