// What this host is, and whether a process of another fits on it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "image/model.h"

namespace rfork::image {

/// The running host's facts: uname, CPUID, XGETBV, page size, kernel abilities. Cheap (well under 1
/// ms).
///
/// Abilities are: "mm_map" (prctl PR_SET_MM_MAP), "rseq", "time_namespace", "la57" (56-bit
/// addresses), "hugetlb:SIZE" for each huge page size in bytes that has a pool, "memfd_exec",
/// "guard_regions" (MADV_GUARD_INSTALL), "seal" (mseal), "protection_keys",
/// "timer_ids" (prctl PR_TIMER_CREATE_RESTORE_IDS), and those of privileges.h.
Host this_host();

inline constexpr const char* kProtectionKeys = "protection_keys";
bool has_ability(const Host& host, std::string_view name);

/// What a process needs of a host, as far as it is known before it is frozen.
struct Needs {
  Host host;                           ///< of the origin
  std::vector<std::string> abilities;  ///< kernel abilities that this very process uses
};

/// Needs of a decoded image, derived from its mappings and threads.
Needs needs_of(const Snapshot& snapshot);

struct FitOptions {
  bool ignore_cpu = false;       ///< accept missing instruction sets and XSAVE components
  bool drop_attributes = false;  ///< accept missing privileges
};

/// Every reason why a process with `needs` can't go on on `here`, one for each thing that is
/// missing; empty when it fits. Pure. CPU reasons advise --ignore-cpu.
std::vector<Reason> misfits(const Needs& needs, const Host& here, const FitOptions& options);

}  // namespace rfork::image
