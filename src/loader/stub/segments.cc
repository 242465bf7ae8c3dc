#include "segments.h"

#include <errno.h>
#include <sys/syscall.h>

#include "syscall_x86_64.h"

namespace rfork::stub {

using loader::plan::Header;
using loader::plan::Segment;

namespace {

constexpr uint64_t kRemove = 0;              // IPC_RMID
constexpr uint64_t kNoReserve = 0010000;     // SHM_NORESERVE
constexpr uint64_t kWriteOnly = 1;           // O_WRONLY
constexpr int64_t kCurrentDirectory = -100;  // AT_FDCWD

/// The next segment of this IPC namespace, whoever makes it, gets that id if it is free.
long choose_id(const Segment& segment) {
  const long fd = system_call(SYS_openat, static_cast<uint64_t>(kCurrentDirectory), segment.next_id,
                              kWriteOnly);
  if (fd < 0) return fd;
  const long written =
      system_call(SYS_write, static_cast<uint64_t>(fd), segment.id_text, segment.id_text_size);
  system_call(SYS_close, static_cast<uint64_t>(fd));
  return written < 0 ? written : 0;
}

/// Effective ids decide whose it is for ever (shm_perm.cuid), so those of the child's user are
/// taken for the call. Where that isn't allowed there are no others to have.
long get(const Segment& segment, uint64_t more) {
  constexpr uint64_t kUnchanged = UINT64_MAX;
  const auto uid = static_cast<uint64_t>(system_call(SYS_geteuid));
  const auto gid = static_cast<uint64_t>(system_call(SYS_getegid));
  const bool other = segment.uid != uid || segment.gid != gid;
  if (other) {
    system_call(SYS_setresgid, kUnchanged, segment.gid, kUnchanged);
    system_call(SYS_setresuid, kUnchanged, segment.uid, kUnchanged);
  }
  const long id = system_call(SYS_shmget, static_cast<uint64_t>(static_cast<int64_t>(segment.key)),
                              segment.size, static_cast<uint64_t>(segment.flags) | more);
  if (other) {
    system_call(SYS_setresuid, kUnchanged, uid, kUnchanged);
    system_call(SYS_setresgid, kUnchanged, gid, kUnchanged);
  }
  return id;
}

}  // namespace

long make_segment(Segment& segment) {
  constexpr int kTries = 5;  // somebody else may make one in between
  for (int i = 0; i < kTries; ++i) {
    const long chosen = segment.next_id != 0 ? choose_id(segment) : 0;
    if (chosen < 0) return chosen;
    long id = get(segment, 0);
    // Larger than what is free: it was made without a reserve there, which can't be seen.
    if (id == -ENOMEM) id = get(segment, kNoReserve);
    if (id < 0) return id;
    segment.made = static_cast<int32_t>(id);
    if (segment.next_id == 0 || id == segment.id) return 0;
    system_call(SYS_shmctl, static_cast<uint64_t>(id), kRemove, 0);
    segment.made = -1;
  }
  return -EEXIST;
}

void remove_segments(const Header& header) {
  const auto* segments = reinterpret_cast<const Segment*>(header.segments);
  for (uint64_t i = 0; i < header.segment_count; ++i) {
    if (segments[i].made < 0) continue;
    system_call(SYS_shmctl, static_cast<uint64_t>(segments[i].made), kRemove, 0);
  }
}

}  // namespace rfork::stub
