#include "loader/fanotify_groups.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/io.h"
#include "image/fanotify.h"
#include "loader/fanotify_queue.h"
#include "loader/identity.h"
#include "loader/watched_file.h"

namespace rfork::loader {

using image::Description;
using image::FanotifyGroup;
using image::FanotifyMark;

namespace {

constexpr uint64_t kChanges = FAN_MODIFY | FAN_ATTRIB | FAN_MOVE | FAN_CREATE | FAN_DELETE |
                              FAN_DELETE_SELF | FAN_MOVE_SELF | FAN_RENAME | FAN_FS_ERROR |
                              FAN_Q_OVERFLOW;

bool is_wide(const FanotifyMark& mark) {
  return (mark.flags & image::kFanWide) != 0;
}

/// Where something else is mounted, or nothing, the mark would be of that.
bool is_mount_point(const std::string& path) {
  struct statx status {};
  return ::statx(AT_FDCWD, path.c_str(), 0, 0, &status) == 0 &&
         (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

/// What is reported of it and what is ignored, each by a call of its own.
bool add_marks(int fd, const FanotifyMark& mark, unsigned flags, const std::string& path) {
  flags |= FAN_MARK_ADD;
  if (mark.mask != 0 && ::fanotify_mark(fd, flags, mark.mask, AT_FDCWD, path.c_str()) != 0)
    return false;
  if (mark.ignored == 0) return true;
  // With FAN_MARK_IGNORE directories count only where FAN_ONDIR says so.
  flags |= (mark.flags & FAN_MARK_IGNORE) != 0 ? FAN_MARK_IGNORE : FAN_MARK_IGNORED_MASK;
  flags |= mark.flags & FAN_MARK_IGNORED_SURV_MODIFY;
  return ::fanotify_mark(fd, flags, mark.ignored, AT_FDCWD, path.c_str()) == 0;
}

/// Both parts of the mark of a mount.
void remove_marks(int fd, const FanotifyMark& mark) {
  constexpr unsigned kFlags = FAN_MARK_REMOVE | FAN_MARK_MOUNT;
  const unsigned ignore =
      (mark.flags & FAN_MARK_IGNORE) != 0 ? FAN_MARK_IGNORE : FAN_MARK_IGNORED_MASK;
  ::fanotify_mark(fd, kFlags, mark.mask, AT_FDCWD, mark.path.c_str());
  ::fanotify_mark(fd, kFlags | ignore, mark.ignored, AT_FDCWD, mark.path.c_str());
}

const char* advice_on(int error) {
  switch (error) {
    case EPERM:
      return "it needs CAP_SYS_ADMIN";
    case EMFILE:
      return "see /proc/sys/fs/fanotify/max_user_groups";
    case ENOSPC:
      return "see /proc/sys/fs/fanotify/max_user_marks";
    case EINVAL:
      return "it may need a later kernel";
    default:
      return "";
  }
}

/// A descriptor that leads to it; -1: none does.
int number_of(const image::Process& process, uint32_t description) {
  const auto found =
      std::ranges::find(process.descriptors, description, &image::Descriptor::description);
  return found == process.descriptors.end() ? -1 : found->fd;
}

/// Why the queue can't say that events were lost; nullptr: it can, or none were.
const char* untold(int fd, uint64_t unread, size_t capacity) {
  if (unread == 0) return nullptr;
  if (capacity == 0) return "it has no limit that can be reached";
  return can_make_event(fd) ? nullptr : "no event can be made here that it reports";
}

}  // namespace

/// A group that is made with CAP_SYS_ADMIN is told of more than others (the pids of other
/// processes): not for a process that couldn't have made such a one itself.
bool FanotifyGroups::has_privilege(const FanotifyGroup& wanted) const {
  const bool process_had = (process_.credentials.cap_effective >> CAP_SYS_ADMIN & 1) != 0;
  return (process_had || image::needs_privilege(wanted)) &&
         (as_image_user_ || has_capability(CAP_SYS_ADMIN));
}

bool FanotifyGroups::set_mark(int fd, const FanotifyMark& mark, Findings& findings) const {
  unsigned flags = mark.flags & (image::kFanWide | FAN_MARK_DONT_FOLLOW | FAN_MARK_EVICTABLE);
  std::string path = mark.path;
  if (is_wide(mark) && !is_mount_point(path)) {
    findings.refuse(fmt::format("{}, whose {} is watched, isn't a mount point here", path,
                                flags & FAN_MARK_MOUNT ? "mount" : "file system"),
                    "mount it");
    return false;
  }
  if (!is_wide(mark)) {
    const FoundFile found = find_watched(files_, watched_file(mark));
    if (found.missing != nullptr) {
      findings.warn(fmt::format("{}, which was watched, {}: the watch ends", path, found.missing));
      return true;
    }
    if (found.carried) flags &= ~unsigned{FAN_MARK_DONT_FOLLOW};
    path = found.path;
  }
  if (add_marks(fd, mark, flags, path)) return true;
  findings.refuse(
      fmt::format("{} can't be watched by a fanotify group here: {}",
                  mark.path.empty() ? "a deleted file" : mark.path, std::strerror(errno)),
      advice_on(errno));
  return false;
}

UniqueFd FanotifyGroups::make(const Description& description, Findings& findings) {
  const FanotifyGroup& wanted = *description.fanotify;
  const HeldCapability privilege(CAP_SYS_ADMIN, has_privilege(wanted));
  Group group;
  group.description = &description;
  const bool unlimited = (wanted.flags & FAN_UNLIMITED_QUEUE) != 0;
  group.capacity = unlimited ? 0 : fanotify_capacity();
  group.fd.reset(::fanotify_init(wanted.flags, wanted.event_flags));
  if (!group.fd) {
    findings.refuse(fmt::format("a fanotify group can't be made here: {}", std::strerror(errno)),
                    advice_on(errno));
    return {};
  }
  const int fd = group.fd.get();
  (void)::fcntl(fd, F_SETFD, FD_CLOEXEC);
  (void)::fcntl(fd, F_SETFL, O_NONBLOCK);  // until its queue begins
  if (const char* const why = untold(fd, description.count, group.capacity)) {
    findings.warn(
        fmt::format("the unread events of descriptor {}, a fanotify group, are lost, and "
                    "its queue can't say so: {}",
                    number_of(process_, description.id), why));
  }
  for (const FanotifyMark& mark : wanted.marks) {
    if (!set_mark(fd, mark, findings)) return {};
  }
  UniqueFd handed(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  groups_.push_back(std::move(group));
  return handed;
}

/// Whether something happened to what is watched since the capture that nobody has told the child.
bool FanotifyGroups::missed_events(const Group& group, pid_t child) const {
  bool missed = group.description->count > 0;
  for (const FanotifyEvent& event : take_events(group.fd.get())) {
    const bool own = event.pid == ::getpid() || event.pid == child;
    missed = missed || (!own && (event.mask & kChanges) != 0);
  }
  for (const FanotifyMark& mark : group.description->fanotify->marks) {
    // On a whole file system something has.
    missed =
        missed || (is_wide(mark) ? files_.same_boot() : changed_since(files_, watched_file(mark)));
  }
  return missed;
}

void FanotifyGroups::mark_mounts_of(pid_t child) {
  const std::string directory = fmt::format("/proc/{}/", child);
  if (try_read_link(directory + "ns/mnt") == try_read_link("/proc/self/ns/mnt")) return;
  for (const Group& group : groups_) {
    for (const FanotifyMark& mark : group.description->fanotify->marks) {
      if ((mark.flags & FAN_MARK_MOUNT) == 0) continue;
      const int fd = group.fd.get();
      remove_marks(fd, mark);
      if (!add_marks(fd, mark, FAN_MARK_MOUNT, directory + "root" + mark.path))
        throw Error("fanotify_mark of the child's own mount", errno, mark.path,
                    Failure::destination_refused);
    }
  }
}

void FanotifyGroups::begin_queues(pid_t child) {
  std::vector<const Group*> empty;
  for (const Group& group : groups_) {
    if (missed_events(group, child) && group.capacity > 0) {
      make_overflow(group.fd.get(), group.capacity);
    } else {
      empty.push_back(&group);
    }
  }
  for (const Group* const group : empty) take_events(group->fd.get());
  for (const Group& group : groups_) {
    (void)::fcntl(group.fd.get(), F_SETFL, group.description->flags & O_NONBLOCK);
  }
  groups_.clear();
}

}  // namespace rfork::loader
