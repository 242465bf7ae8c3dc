#include "tracer/inotify_watches.h"

#include <fmt/format.h>
#include <sys/inotify.h>

#include <algorithm>

#include "tracer/proc_text.h"

namespace rfork::tracer {

using image::Description;
using image::InotifyWatch;

namespace {

// Of what the kernel shows, what inotify_add_watch(2) takes: events, and how they are told.
constexpr uint32_t kSettable = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;

struct Watched {
  InotifyWatch watch;
  WantedInode file;
};

/// A line of fdinfo (Documentation/filesystems/proc.rst).
std::optional<Watched> parse_watch(std::string_view line) {
  const auto wd = hex_field(line, "wd"), mask = hex_field(line, "mask");
  const auto file = wanted_inode(line);
  if (!line.starts_with("inotify ") || !wd || !mask || !file) return std::nullopt;
  Watched parsed{{}, *file};
  parsed.watch.wd = static_cast<int32_t>(*wd);
  parsed.watch.inode = file->inode;
  parsed.watch.mask = static_cast<uint32_t>(*mask) & kSettable;
  return parsed;
}

std::vector<Watched> watches_in(const std::string& info) {
  std::vector<Watched> watches;
  for (const std::string_view line : split(info, '\n')) {
    if (auto watch = parse_watch(line)) watches.push_back(*std::move(watch));
  }
  std::ranges::sort(watches, {}, [](const Watched& one) { return one.watch.wd; });
  return watches;
}

}  // namespace

bool is_inotify(const std::string& link) {
  return link == "anon_inode:inotify" || link == "anon_inode:[inotify]";
}

void describe_inotify(Inventory& inventory, const InventoryInput& input,
                      const std::vector<WatcherFd>& instances) {
  std::vector<std::vector<Watched>> all;
  std::vector<WantedInode> files;
  for (const WatcherFd& instance : instances) {
    all.push_back(watches_in(instance.info));
    for (const Watched& watched : all.back()) files.push_back(watched.file);
  }
  const auto names = name_files(inventory, input, files);
  auto name = names.begin();
  for (size_t i = 0; i < instances.size(); ++i) {
    Description& description = description_of(inventory, instances[i]);
    description.count = unread_bytes(input.pid, instances[i].fd);
    for (Watched& watched : all[i]) {
      const std::optional<NamedFile>& named = *name++;
      if (!named) {
        refuse_watcher(inventory, instances[i].fd,
                       fmt::format("an inotify instance that watches a file whose name isn't "
                                   "found ({})",
                                   in_words(watched.file)));
        continue;
      }
      set_file(watched.watch, *named);
      if (named->found.symbolic_link) watched.watch.mask |= IN_DONT_FOLLOW;
      description.inotify.push_back(std::move(watched.watch));
    }
  }
}

}  // namespace rfork::tracer
