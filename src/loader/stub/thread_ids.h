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
/// F_SETOWN_EX of fcntl(2): to the thread whose tid stands at `tid`; 0: the process, or its group.
long set_owner(uint64_t fd, uint64_t type, uint64_t tid, uint64_t own_pid);

}  // namespace rfork::stub
