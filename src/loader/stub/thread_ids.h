// What depends on thread ids, which the loader doesn't know.
#pragma once

#include <stdint.h>

namespace rfork::stub {

/// Writes the caller's tid, an int32_t.
void note_tid(uint64_t address);
/// The tid at `address` becomes the caller's own if it is `old_tid`.
void replace_tid(uint64_t address, uint32_t old_tid);
/// Owners in the futex words of a robust list (linux/futex.h: struct robust_list_head). The list is
/// the program's own, so it is followed only as far as a kernel would (ROBUST_LIST_LIMIT).
void replace_robust_owners(uint64_t head, uint32_t old_tid);

}  // namespace rfork::stub
