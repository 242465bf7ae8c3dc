// Who gets the signals of descriptors.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>
#include <set>

#include "loader/open_files.h"

namespace rfork::loader {

using image::Description;

namespace {

/// In the child; 0: nowhere.
uint64_t tid_place(const image::Process& process, int32_t tid, uint64_t tids) {
  const auto thread = std::ranges::find(process.threads, tid, &image::Thread::tid);
  if (thread == process.threads.end()) return 0;
  return tids + static_cast<uint64_t>(thread - process.threads.begin()) * sizeof(int32_t);
}

}  // namespace

void OpenFiles::add_owners(PlanWriter& plan, uint64_t tids) const {
  std::set<uint32_t> done;
  for (const image::Descriptor& descriptor : process_.descriptors) {
    const Description* description = image::find_id(snapshot_.descriptions, descriptor.description);
    if (description == nullptr || !done.insert(description->id).second) continue;
    // What stands in for these has flags of its own.
    if (description->kind == Description::Kind::stdio ||
        description->kind == Description::Kind::relay) {
      continue;
    }
    const auto fd = static_cast<uint64_t>(descriptor.fd);
    const std::string words = fmt::format("the signals of descriptor {}", descriptor.fd);
    if (description->owner_signal != 0) {
      plan.call(SYS_fcntl, {fd, F_SETSIG, static_cast<uint64_t>(description->owner_signal)},
                "F_SETSIG for " + words);
    }
    if (description->owner == 0 && (description->flags & O_ASYNC) == 0) continue;
    const auto type = static_cast<uint64_t>(description->owner_type);
    const uint64_t tid = type == F_OWNER_TID ? tid_place(process_, description->owner, tids) : 0;
    if (type == F_OWNER_TID && tid == 0) continue;  // it has ended, and nobody gets them
    if (description->owner != 0)
      plan.op(plan::OpKind::set_owner, {fd, type, tid}, "F_SETOWN for " + words);
    if ((description->flags & O_ASYNC) != 0) {
      plan.call(SYS_fcntl, {fd, F_SETFL, static_cast<uint64_t>(description->flags)},
                "O_ASYNC for " + words);
    }
  }
}

}  // namespace rfork::loader
