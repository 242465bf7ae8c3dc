// Which pages of a mapping hold something of the process's own.
//
// PAGEMAP_SCAN (Linux 6.7) skips holes as fast as the page tables do; older kernels have the 8
// bytes a page of /proc/PID/pagemap. A page that the process has touched but that is all zero is
// found by looking at it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/range.h"
#include "base/unique_fd.h"
#include "tracer/process_memory.h"

namespace rfork::tracer {

class PageScanner {
 public:
  /// Opens /proc/PID/pagemap of `memory`'s process, which outlives this. `use_scan_ioctl` false
  /// forces the old way (for tests).
  explicit PageScanner(const ProcessMemory& memory, bool use_scan_ioctl = true);

  enum class Want {
    private_pages,  ///< anonymous ones: of anonymous memory, and changed pages of private file
                    ///< mappings
    present_pages,  ///< all that are in memory or swapped out
  };
  struct Found {
    std::vector<Range> pages;   ///< runs in order, joined where they touch
    std::vector<Range> guards;  ///< guard regions (MADV_GUARD_INSTALL); before Linux 6.15 the
                                ///< kernel doesn't tell them from pages, and reading them fails
  };
  /// Such pages within `range`; those that are all zero left out when `skip_zero`. Throws Error.
  Found find(const Range& range, Want want, bool skip_zero) const;
  /// Guard regions within `range`; none before Linux 6.15.
  std::vector<Range> guards(const Range& range) const;
  /// `runs` without the pages that are all zero.
  std::vector<Range> without_zero_pages(const std::vector<Range>& runs) const;

 private:
  Found scan(const Range& range, Want want) const;
  Found read_page_map(const Range& range, Want want) const;

  const ProcessMemory& memory_;
  UniqueFd page_map_;
  mutable bool use_scan_ioctl_;
  mutable uint64_t guard_category_;  ///< 0: the kernel doesn't know it
};

}  // namespace rfork::tracer
