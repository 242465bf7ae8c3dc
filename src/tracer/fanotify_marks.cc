#include "tracer/fanotify_marks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "image/fanotify.h"
#include "tracer/mounts.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

using image::Description;
using image::FanotifyMark;

namespace {

/// What a line of fdinfo says of a mark.
struct Marked {
  FanotifyMark mark;
  std::optional<WantedInode> file;
  std::optional<uint64_t> mount, device;
};

struct Group {
  const WatcherFd& watcher;
  std::vector<Marked> marks;
};

/// Documentation/filesystems/proc.rst; nullopt: of a mark of another kind (a mount namespace).
std::optional<Marked> parse_mark(std::string_view line) {
  Marked marked;
  marked.file = wanted_inode(line);
  marked.mount = hex_field(line, "mnt_id");
  if (const auto device = hex_field(line, "sdev"); device && !marked.file) {
    marked.device = device_of(*device);
  }
  const auto flags = hex_field(line, "mflags"), mask = hex_field(line, "mask"),
             ignored = hex_field(line, "ignored_mask");
  if (!flags || !mask || !ignored || (!marked.file && !marked.mount && !marked.device))
    return std::nullopt;
  marked.mark.flags = static_cast<uint32_t>(*flags);
  if (marked.mount) marked.mark.flags |= FAN_MARK_MOUNT;
  if (marked.device) marked.mark.flags |= FAN_MARK_FILESYSTEM;
  marked.mark.mask = *mask;
  marked.mark.ignored = *ignored;
  if (marked.file) marked.mark.inode = marked.file->inode;
  return marked;
}

/// Why a mark can't be set again; empty: nothing is known against it.
std::string objection(const std::optional<Marked>& marked) {
  if (!marked) return "marks a mount namespace";
  if (((marked->mark.mask | marked->mark.ignored) & image::kFanPermissions) != 0)
    return "is asked for permission (FAN_OPEN_PERM and the like)";
  if ((marked->mark.flags & ~image::kFanMarkFlags) != 0)
    return fmt::format("has a mark of an unknown kind ({:#x})", marked->mark.flags);
  return {};
}

/// The group's own line, and its marks. False, with obstacles: it can't be carried.
bool parse_group(Inventory& inventory, Group& group, Description& description) {
  bool known = false;
  for (const std::string_view line : split(group.watcher.info, '\n')) {
    if (!line.starts_with("fanotify ")) continue;
    const auto flags = hex_field(line, "flags"), events = hex_field(line, "event-flags");
    if (flags && events) {
      known = true;
      description.fanotify = {static_cast<uint32_t>(*flags), static_cast<uint32_t>(*events), {}};
      continue;
    }
    auto marked = parse_mark(line);
    if (const std::string why = objection(marked); !why.empty()) {
      refuse_watcher(inventory, group.watcher.fd,
                     fmt::format("a fanotify group that {}, which can't be carried", why));
      return false;
    }
    // What was ignored only until the file was changed leaves a mark without events.
    if ((marked->mark.mask | marked->mark.ignored) != 0) group.marks.push_back(*std::move(marked));
  }
  if (!known) {
    refuse_watcher(inventory, group.watcher.fd,
                   "a fanotify group of which this kernel tells nothing, which can't be carried");
  }
  return known;
}

/// Where a mount, or some mount of a device, can be reached: not below a later one.
std::optional<std::string> mount_point(pid_t pid, const std::vector<Mount>& mounts,
                                       const Marked& marked) {
  for (const Mount& mount : mounts) {
    if (marked.mount ? mount.id != *marked.mount : mount.device != *marked.device) continue;
    struct statx status {};
    const std::string path = fmt::format("/proc/{}/root{}", pid, mount.point);
    if (::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_MNT_ID,
                &status) == 0 &&
        status.stx_mnt_id == mount.id) {
      return mount.point;
    }
  }
  return std::nullopt;
}

std::string nameless(const Marked& marked) {
  if (marked.file) return fmt::format("a file whose name isn't found ({})", in_words(*marked.file));
  return marked.mount ? fmt::format("a mount that isn't found ({})", *marked.mount)
                      : "a file system whose mount isn't found";
}

/// Completes a mark; false: nothing leads to what it is of.
bool name_mark(pid_t pid, const std::vector<Mount>& mounts, const std::optional<NamedFile>& named,
               Marked& marked) {
  if (!marked.file) {
    auto point = mount_point(pid, mounts, marked);
    if (point) marked.mark.path = *std::move(point);
    return !marked.mark.path.empty();
  }
  if (!named) return false;
  set_file(marked.mark, *named);
  if (named->found.symbolic_link) marked.mark.flags |= FAN_MARK_DONT_FOLLOW;
  return true;
}

}  // namespace

bool is_fanotify(const std::string& link) {
  return link == "anon_inode:[fanotify]";
}

void describe_fanotify(Inventory& inventory, const InventoryInput& input,
                       const std::vector<WatcherFd>& groups) {
  if (groups.empty()) return;
  std::vector<Group> all;
  std::vector<WantedInode> files;
  for (const WatcherFd& watcher : groups) {
    Group group{watcher, {}};
    if (!parse_group(inventory, group, description_of(inventory, watcher))) continue;
    for (const Marked& marked : group.marks) {
      if (marked.file) files.push_back(*marked.file);
    }
    all.push_back(std::move(group));
  }
  const auto names = name_files(inventory, input, files);
  const std::vector<Mount> mounts = mounts_of(input.pid);
  auto name = names.begin();
  for (Group& group : all) {
    Description& description = description_of(inventory, group.watcher);
    description.count = unread_bytes(input.pid, group.watcher.fd);
    for (Marked& marked : group.marks) {
      const std::optional<NamedFile> named = marked.file ? *name++ : std::nullopt;
      if (name_mark(input.pid, mounts, named, marked)) {
        description.fanotify->marks.push_back(std::move(marked.mark));
      } else {
        refuse_watcher(inventory, group.watcher.fd,
                       "a fanotify group that watches " + nameless(marked));
      }
    }
  }
}

}  // namespace rfork::tracer
