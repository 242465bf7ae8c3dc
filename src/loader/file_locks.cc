// Locks of files, and leases: which of them can be had here, and the operations that take them.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>

#include "loader/open_files.h"

namespace rfork::loader {

using image::Description;
using image::Descriptor;
using image::FileLock;

namespace {

/// The system call that takes a lock: fcntl with `range`, flock, which has no argument more, or
/// fcntl with the type of a lease.
struct LockCall {
  long number = SYS_fcntl;
  uint64_t command = 0;
  struct flock range {};
  uint64_t lease = 0;
};

LockCall call_for(const FileLock& lock, bool wait) {
  LockCall call;
  if (lock.kind == FileLock::Kind::lease) {
    call.command = F_SETLEASE;
    call.lease = static_cast<uint64_t>(lock.exclusive ? F_WRLCK : F_RDLCK);
    return call;
  }
  if (lock.kind == FileLock::Kind::flock) {
    call.number = SYS_flock;
    call.command = static_cast<uint64_t>(lock.exclusive ? LOCK_EX : LOCK_SH) |
                   static_cast<uint64_t>(wait ? 0 : LOCK_NB);
    return call;
  }
  const bool of_process = lock.kind == FileLock::Kind::posix;
  call.command = static_cast<uint64_t>(wait ? (of_process ? F_SETLKW : F_OFD_SETLKW)
                                            : (of_process ? F_SETLK : F_OFD_SETLK));
  call.range.l_type = lock.exclusive ? F_WRLCK : F_RDLCK;
  call.range.l_whence = SEEK_SET;
  call.range.l_start = static_cast<off_t>(lock.start);
  call.range.l_len = static_cast<off_t>(lock.size);
  return call;
}

/// Whether no other process here holds it against us. A lock of the description is taken already by
/// asking.
bool may_take(int fd, const FileLock& lock) {
  LockCall call = call_for(lock, false);
  if (call.number == SYS_flock) {
    return ::flock(fd, static_cast<int>(call.command)) == 0 || errno != EWOULDBLOCK;
  }
  return ::fcntl(fd, F_OFD_GETLK, &call.range) != 0 || call.range.l_type == F_UNLCK;
}

std::string describe(const FileLock& lock, const std::string& path) {
  if (lock.kind == FileLock::Kind::lease)
    return fmt::format("the {} lease on {}", lock.exclusive ? "write" : "read", path);
  if (lock.kind == FileLock::Kind::flock) return "the lock on " + path;
  if (lock.size == 0) return fmt::format("the lock on bytes {} to the end of {}", lock.start, path);
  return fmt::format("the lock on bytes {} to {} of {}", lock.start, lock.start + lock.size - 1,
                     path);
}

/// Why the kernel doesn't give this lease, found out by taking it for a moment; 0: it does.
int lease_error(int fd, const FileLock& lock) {
  ::fcntl(fd, F_SETSIG, SIGURG);  // which does nothing to who doesn't wait for it
  const int type = lock.exclusive ? F_WRLCK : F_RDLCK;
  const int error = ::fcntl(fd, F_SETLEASE, type) == 0 ? 0 : errno;
  if (error == 0) ::fcntl(fd, F_SETLEASE, F_UNLCK);
  ::fcntl(fd, F_SETOWN, 0);
  ::fcntl(fd, F_SETSIG, 0);
  return error;
}

}  // namespace

void OpenFiles::sort_locks(const Description& description, Opened& opened) {
  for (const FileLock& lock : description.locks) {
    if (lock.kind == FileLock::Kind::lease) {
      if (may_have_lease(description, opened, lock)) opened.locks[Locks::free].push_back(lock);
      continue;
    }
    const std::string words = describe(lock, description.path);
    // What only the child opens is found locked only then.
    if (opened.fd < 0 || description.kind == Description::Kind::stdio ||
        may_take(opened.fd, lock)) {
      opened.locks[Locks::free].push_back(lock);
    } else if (options_.original_waits) {
      opened.locks[Locks::of_original].push_back(lock);
    } else if (options_.drop_locks || !snapshot_.moved) {
      findings_.warn(words + " is held by another process here, and the child goes on without it");
    } else {
      findings_.refuse(words + " is held by another process here",
                       "end that process (lslocks names it), or go on without with --drop-locks");
    }
  }
}

/// A copy on the host of its original can share a read lease.
bool OpenFiles::may_have_lease(const Description& description, const Opened& opened,
                               const FileLock& lock) {
  // What is made here is open for its contents still, and nobody else's.
  if (opened.fd < 0 || description.object || files_.contents_of(description.path) >= 0)
    return opened.fd >= 0;
  const int error = lease_error(opened.fd, lock);
  if (error == 0) return true;
  const bool busy = error == EAGAIN;
  const std::string words = fmt::format(
      "{} can't be set here: {}", describe(lock, description.path),
      busy ? "another process has the file open" : std::generic_category().message(error));
  if (options_.drop_locks || (busy && !snapshot_.moved)) {
    findings_.warn(words + "; the child goes on without it");
  } else {
    findings_.refuse(words, busy ? "end that process, or go on without with --drop-locks"
                                 : "it takes the file's owner or CAP_LEASE, and a file system that "
                                   "has leases; --drop-locks goes on without");
  }
  return false;
}

void OpenFiles::add_locks(PlanWriter& plan, Locks which) const {
  const bool wait = which == Locks::of_original;
  std::set<uint32_t> done;
  for (const Descriptor& descriptor : process_.descriptors) {
    const auto opened = opened_.find(descriptor.description);
    if (opened == opened_.end() || !done.insert(descriptor.description).second) continue;
    const auto locks = opened->second.locks.find(which);
    if (locks == opened->second.locks.end()) continue;
    const Description& description =
        *image::find_id(snapshot_.descriptions, descriptor.description);
    for (const FileLock& lock : locks->second) {
      const LockCall call = call_for(lock, wait);
      const auto fd = static_cast<uint64_t>(descriptor.fd);
      const bool has_range = call.number == SYS_fcntl && call.command != F_SETLEASE;
      const uint64_t argument = has_range ? plan.value(call.range) : call.lease;
      const std::string words = "take " + describe(lock, description.path);
      // After GO nothing can be refused any more.
      if (wait) {
        plan.try_call(call.number, {fd, call.command, argument}, words);
      } else {
        plan.call(call.number, {fd, call.command, argument}, words);
      }
    }
  }
}

bool OpenFiles::waits_for_locks() const {
  return std::ranges::any_of(
      opened_, [](const auto& entry) { return entry.second.locks.contains(Locks::of_original); });
}

}  // namespace rfork::loader
