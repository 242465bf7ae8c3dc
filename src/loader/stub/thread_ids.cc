#include "thread_ids.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#include "syscall_x86_64.h"

namespace rfork::stub {

void note_tid(uint64_t address) {
  *reinterpret_cast<int32_t*>(address) = static_cast<int32_t>(system_call(SYS_gettid));
}

void replace_tid(uint64_t address, uint32_t old_tid) {
  auto* word = reinterpret_cast<volatile uint32_t*>(address);
  if (*word == old_tid) *word = static_cast<uint32_t>(system_call(SYS_gettid));
}

void replace_robust_owners(uint64_t head, uint32_t old_tid) {
  struct Entry {
    Entry* next;
  };
  struct Head {
    Entry list;
    long futex_offset;
    Entry* pending;
  };
  auto* list = reinterpret_cast<Head*>(head);
  const uint32_t own = static_cast<uint32_t>(system_call(SYS_gettid));
  const auto fix = [&](Entry* entry) {
    const uint64_t untagged = reinterpret_cast<uint64_t>(entry) & ~1ul;  // bit 0: a PI futex
    auto* word =
        reinterpret_cast<volatile uint32_t*>(untagged + static_cast<uint64_t>(list->futex_offset));
    if ((*word & FUTEX_TID_MASK) == old_tid) *word = (*word & ~FUTEX_TID_MASK) | own;
  };
  Entry* entry = list->list.next;
  for (int i = 0; i < ROBUST_LIST_LIMIT; ++i) {
    Entry* plain = reinterpret_cast<Entry*>(reinterpret_cast<uint64_t>(entry) & ~1ul);
    if (plain == &list->list || plain == nullptr) break;
    Entry* next = plain->next;
    fix(entry);
    entry = next;
  }
  if (list->pending != nullptr) fix(list->pending);
}

long set_owner(uint64_t fd, uint64_t type, uint64_t tid, uint64_t own_pid) {
  constexpr uint64_t kSetOwnerEx = 15, kGroup = 2;
  struct {
    int32_t type, id;
  } owner = {static_cast<int32_t>(type), static_cast<int32_t>(own_pid)};
  if (type == kGroup) owner.id = static_cast<int32_t>(system_call(SYS_getpgid, 0));
  if (tid != 0) owner.id = *reinterpret_cast<const int32_t*>(tid);
  return system_call(SYS_fcntl, fd, kSetOwnerEx, reinterpret_cast<uint64_t>(&owner));
}

}  // namespace rfork::stub
