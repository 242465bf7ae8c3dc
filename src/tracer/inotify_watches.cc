#include "tracer/inotify_watches.h"

#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "base/text.h"
#include "tracer/path_search.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

using image::Description;
using image::InotifyWatch;

namespace {

// Of what the kernel shows, what inotify_add_watch(2) takes: events, and how they are told.
constexpr uint32_t kSettable = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;

// The process runs while it is examined, and waits while its snapshot is taken.
constexpr std::chrono::milliseconds kPatience{3000};
constexpr std::chrono::milliseconds kPatienceWhenStopped{100};

struct Watched {
  InotifyWatch watch;
  WantedInode file;
};

/// A line of fdinfo (Documentation/filesystems/proc.rst); all its numbers are hexadecimal.
std::optional<Watched> parse_watch(const std::string& line) {
  Watched parsed;
  uint32_t wd = 0, device = 0;
  if (std::sscanf(line.c_str(),
                  "inotify wd:%" SCNx32 " ino:%" SCNx64 " sdev:%" SCNx32 " mask:%" SCNx32, &wd,
                  &parsed.file.inode, &device, &parsed.watch.mask) != 4) {
    return std::nullopt;
  }
  parsed.watch.wd = static_cast<int32_t>(wd);
  parsed.watch.inode = parsed.file.inode;
  parsed.watch.mask &= kSettable;
  parsed.file.device = makedev(device >> 20, device & 0xfffff);  // the kernel's own MKDEV
  constexpr std::string_view kType = "fhandle-type:", kHandle = "f_handle:";
  const size_t type = line.find(kType), handle = line.find(kHandle);
  if (type == std::string::npos || handle == std::string::npos) return parsed;
  parsed.file.handle_type =
      static_cast<int>(std::strtol(line.c_str() + type + kType.size(), nullptr, 16));
  parsed.file.handle =
      from_hex(std::string_view(line).substr(handle + kHandle.size())).value_or(Bytes());
  return parsed;
}

std::vector<Watched> watches_in(const std::string& info) {
  std::vector<Watched> watches;
  for (const std::string_view line : split(info, '\n')) {
    if (auto watch = parse_watch(std::string(line))) watches.push_back(*std::move(watch));
  }
  std::ranges::sort(watches, {}, [](const Watched& one) { return one.watch.wd; });
  return watches;
}

/// A deleted file that the process has open too: its contents travel.
std::optional<uint32_t> carried_contents(const Inventory& inventory, const WantedInode& file) {
  for (const auto& [id, source] : inventory.object_sources) {
    if (source.inode == file.inode && source.device == file.device) return id;
  }
  return std::nullopt;
}

uint64_t unread_bytes(pid_t pid, int fd) {
  const UniqueFd own = duplicate_descriptor(pid, fd);
  int bytes = 0;
  return own && ::ioctl(own.get(), FIONREAD, &bytes) == 0 ? static_cast<uint64_t>(bytes) : 0;
}

std::vector<std::string> known_names(const Inventory* earlier) {
  std::vector<std::string> names;
  if (earlier == nullptr) return names;
  for (const Description& description : earlier->descriptions) {
    for (const InotifyWatch& watch : description.inotify) names.push_back(watch.path);
  }
  return names;
}

void add_obstacle(Inventory& inventory, int fd, const WantedInode& file) {
  inventory.obstacles.push_back(
      {fmt::format("descriptor {} is an inotify instance that watches a file whose name isn't "
                   "found (inode {} of device {}:{})",
                   fd, file.inode, major(file.device), minor(file.device)),
       fmt::format("--drop-fd {} goes on without it", fd)});
}

}  // namespace

bool is_inotify(const std::string& link) {
  return link == "anon_inode:inotify" || link == "anon_inode:[inotify]";
}

void describe_inotify(Inventory& inventory, const InventoryInput& input,
                      const std::vector<InotifyInstance>& instances) {
  std::vector<std::vector<Watched>> all;
  std::vector<WantedInode> nameless;
  for (const InotifyInstance& instance : instances) {
    all.push_back(watches_in(instance.info));
    for (Watched& watched : all.back()) {
      watched.watch.object = carried_contents(inventory, watched.file);
      if (!watched.watch.object) nameless.push_back(watched.file);
    }
  }
  const auto names = find_names(input.pid, nameless, known_names(input.earlier),
                                input.earlier != nullptr ? kPatienceWhenStopped : kPatience);
  auto name = names.begin();
  for (size_t i = 0; i < instances.size(); ++i) {
    Description& description =
        *std::ranges::find(inventory.descriptions, instances[i].description, &Description::id);
    description.kind = Description::Kind::inotify;
    description.count = unread_bytes(input.pid, instances[i].fd);
    for (Watched& watched : all[i]) {
      if (!watched.watch.object) {
        const std::optional<FoundName>& found = *name++;
        if (!found) {
          add_obstacle(inventory, instances[i].fd, watched.file);
          continue;
        }
        watched.watch.path = found->path;
        watched.watch.change_time_ns = found->change_time_ns;
        if (found->symbolic_link) watched.watch.mask |= IN_DONT_FOLLOW;
      }
      description.inotify.push_back(std::move(watched.watch));
    }
  }
}

}  // namespace rfork::tracer
