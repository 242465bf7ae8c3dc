#include "tracer/watched_files.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <chrono>

#include "base/text.h"

namespace rfork::tracer {

using image::Description;

namespace {

// The process runs while it is examined, and waits while its snapshot is taken.
constexpr std::chrono::milliseconds kPatience{3000};
constexpr std::chrono::milliseconds kPatienceWhenStopped{100};

/// What stands behind ` name:` up to the next blank.
std::optional<std::string_view> field(std::string_view line, std::string_view name) {
  const std::string key = fmt::format(" {}:", name);
  const size_t at = line.find(key);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = line.substr(at + key.size());
  return rest.substr(0, rest.find(' '));
}

/// A deleted file that the process has open too: its contents travel.
std::optional<uint32_t> carried_contents(const Inventory& inventory, const WantedInode& file) {
  for (const auto& [id, source] : inventory.object_sources) {
    if (source.inode == file.inode && source.device == file.device) return id;
  }
  return std::nullopt;
}

std::vector<std::string> known_names(const Inventory* earlier) {
  std::vector<std::string> names;
  if (earlier == nullptr) return names;
  for (const Description& description : earlier->descriptions) {
    for (const image::InotifyWatch& watch : description.inotify) names.push_back(watch.path);
    if (!description.fanotify) continue;
    for (const image::FanotifyMark& mark : description.fanotify->marks) names.push_back(mark.path);
  }
  return names;
}

}  // namespace

std::optional<uint64_t> hex_field(std::string_view line, std::string_view name) {
  const auto text = field(line, name);
  uint64_t number = 0;
  if (!text ||
      std::from_chars(text->data(), text->data() + text->size(), number, 16).ec != std::errc()) {
    return std::nullopt;
  }
  return number;
}

uint64_t device_of(uint64_t kernel_number) {
  return makedev(static_cast<unsigned>(kernel_number >> 20),
                 static_cast<unsigned>(kernel_number & 0xfffff));
}

std::optional<WantedInode> wanted_inode(std::string_view line) {
  const auto inode = hex_field(line, "ino"), device = hex_field(line, "sdev");
  if (!inode || !device) return std::nullopt;
  WantedInode file{device_of(*device), *inode, 0, {}};
  const auto type = hex_field(line, "fhandle-type");
  const auto handle = field(line, "f_handle");
  if (!type || !handle) return file;
  file.handle_type = static_cast<int>(*type);
  file.handle = from_hex(*handle).value_or(Bytes());
  return file;
}

std::vector<std::optional<NamedFile>> name_files(const Inventory& inventory,
                                                 const InventoryInput& input,
                                                 const std::vector<WantedInode>& files) {
  std::vector<std::optional<NamedFile>> named(files.size());
  std::vector<WantedInode> nameless;
  for (size_t i = 0; i < files.size(); ++i) {
    if (const auto object = carried_contents(inventory, files[i])) {
      named[i] = NamedFile{object, {}};
    } else {
      nameless.push_back(files[i]);
    }
  }
  const auto names = find_names(input.pid, nameless, known_names(input.earlier),
                                input.earlier != nullptr ? kPatienceWhenStopped : kPatience);
  auto name = names.begin();
  for (std::optional<NamedFile>& one : named) {
    if (one) continue;
    if (*name) one = NamedFile{std::nullopt, **name};
    ++name;
  }
  return named;
}

Description& description_of(Inventory& inventory, const WatcherFd& watcher) {
  return *std::ranges::find(inventory.descriptions, watcher.description, &Description::id);
}

uint64_t unread_bytes(pid_t pid, int fd) {
  const UniqueFd own = duplicate_descriptor(pid, fd);
  int bytes = 0;
  return own && ::ioctl(own.get(), FIONREAD, &bytes) == 0 ? static_cast<uint64_t>(bytes) : 0;
}

void refuse_watcher(Inventory& inventory, int fd, const std::string& what) {
  inventory.obstacles.push_back({fmt::format("descriptor {} is {}", fd, what),
                                 fmt::format("--drop-fd {} goes on without it", fd)});
}

std::string in_words(const WantedInode& file) {
  return fmt::format("inode {} of device {}:{}", file.inode, major(file.device),
                     minor(file.device));
}

}  // namespace rfork::tracer
