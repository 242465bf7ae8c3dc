#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/io.h"
#include "image/leases.h"
#include "tracer/attached_segments.h"
#include "tracer/file_locks.h"
#include "tracer/inventory.h"
#include "tracer/special_files.h"

namespace rfork::tracer {

namespace {

using image::Mapping;
using image::Object;

const SmapsEntry* entry_for(const std::vector<SmapsEntry>& smaps, const Range& range) {
  const auto found = std::lower_bound(
      smaps.begin(), smaps.end(), range.start,
      [](const SmapsEntry& entry, uint64_t start) { return entry.range.start < start; });
  return found != smaps.end() && found->range == range ? &*found : nullptr;
}

// Why a mapping can't be carried; empty when it can.
std::string obstacle_in(const std::string& name, const SmapsEntry* entry) {
  if (name.starts_with("anon_inode:")) return "belongs to " + kernel_object_in_words(name);
  if (name == "/secretmem") return "is secret memory (memfd_secret)";
  if (name.starts_with("/SYSV") && entry != nullptr && entry->has("ht"))
    return "is SysV shared memory in huge pages (SHM_HUGETLB)";
  if (name.starts_with("/[aio]") || name == "[aio]") return "is a ring of io_setup(2)";
  if (name == "[uprobes]") return "belongs to a uprobe";
  if (name.starts_with("socket:")) return "belongs to a socket (a ring for packets)";
  const bool special = name.starts_with("[v");  // [vvar] is marked as a device's memory too
  if (entry == nullptr || special) return {};
  if (entry->has("um") || entry->has("uw") || entry->has("ui")) return "is served by userfaultfd";
  if (entry->has("ss")) return "is a shadow stack";
  if (entry->has("io") || entry->has("pf")) return "maps a device's memory (" + name + ")";
  return {};
}

uint32_t advice_of(const SmapsEntry& entry) {
  struct Flag {
    const char* name;
    Mapping::Advice advice;
  };
  static constexpr Flag kFlags[] = {
      {"dc", Mapping::dont_fork},     {"wf", Mapping::wipe_on_fork}, {"dd", Mapping::dont_dump},
      {"hg", Mapping::huge_page},     {"nh", Mapping::no_huge_page}, {"mg", Mapping::mergeable},
      {"sr", Mapping::sequential},    {"rr", Mapping::random},       {"lo", Mapping::locked},
      {"lf", Mapping::lock_on_fault}, {"dp", Mapping::droppable},
  };
  uint32_t advice = 0;
  for (const Flag& flag : kFlags) {
    if (entry.has(flag.name)) advice |= flag.advice;
  }
  return advice;
}

void set_flags(Mapping& mapping, const SmapsEntry& entry) {
  mapping.advice = advice_of(entry);
  mapping.grows_down = entry.has("gd");
  mapping.no_reserve = entry.has("nr");
  mapping.may_write = entry.has("mw");
  mapping.sealed = entry.has("sl");
  mapping.protection_key = entry.protection_key;
  if (entry.has("ht")) mapping.huge_page_size = entry.kernel_page_size;
}

void add_obstacle(Inventory& inventory, const Range& range, const std::string& why) {
  inventory.obstacles.push_back(
      {fmt::format("the mapping at {:#x}-{:#x} {}, which can't be carried", range.start, range.end,
                   why),
       "such a process can't be carried"});
}

Mapping common_part(const MapsLine& line, const SmapsEntry* entry) {
  Mapping mapping;
  mapping.range = line.range;
  mapping.protection = (line.read ? PROT_READ : 0u) | (line.write ? PROT_WRITE : 0u) |
                       (line.execute ? PROT_EXEC : 0u);
  mapping.shared = line.shared;
  mapping.offset = line.offset;
  mapping.name = line.name;
  if (entry != nullptr) set_flags(mapping, *entry);
  return mapping;
}

// Shared anonymous memory, memfds and files without a name.
void add_object_mapping(Inventory& inventory, const InventoryInput& input, const MapsLine& line,
                        Mapping mapping) {
  Object object;
  object.name = line.name;
  const bool shared_anonymous = line.name == "/dev/zero" || line.name.starts_with("[anon_shmem:") ||
                                line.name == "/anon_hugepage";
  object.kind = shared_anonymous                   ? Object::Kind::shared_anonymous
                : line.name.starts_with("/memfd:") ? Object::Kind::memfd
                                                   : Object::Kind::deleted_file;
  object.size = line.offset + line.range.size();
  object.huge_page_size = mapping.huge_page_size;
  // Only a privileged tracer may open a mapping's file this way; else a descriptor of the process
  // may name it, or the contents are read through the mapping.
  UniqueFd fd = try_open(
      fmt::format("/proc/{}/map_files/{:x}-{:x}", input.pid, line.range.start, line.range.end),
      O_RDONLY);
  struct stat status {};
  if (fd && ::fstat(fd.get(), &status) == 0) object.mode = status.st_mode & 07777;
  if (fd && object.kind == Object::Kind::memfd) {
    const int seals = ::fcntl(fd.get(), F_GET_SEALS);
    object.seals = seals > 0 ? static_cast<uint32_t>(seals) : 0;
  }
  mapping.kind = Mapping::Kind::object;
  mapping.backing = add_object(inventory, object, line.device, line.inode, std::move(fd));
  inventory.mappings.push_back(std::move(mapping));
}

void add_file_mapping(Inventory& inventory, const InventoryInput& input, const MapsLine& line,
                      const image::Leases& leases, Mapping mapping) {
  UniqueFd fd;
  if (!leases.broken_by_open(line.device, line.inode, O_RDONLY))
    fd = open_in_process(input.pid, line.name, O_RDONLY);
  if (!fd) fd = open_in_process(input.pid, line.name, O_PATH);
  struct stat status {};
  const bool found = fd && ::fstat(fd.get(), &status) == 0;
  if (found && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 5) && !line.shared) {
    mapping.offset = 0;  // a private mapping of /dev/zero is anonymous memory
    inventory.mappings.push_back(std::move(mapping));
    return;
  }
  if (found && !S_ISREG(status.st_mode)) {
    inventory.obstacles.push_back(
        {fmt::format("the mapping at {:#x} is of {}, which is no regular file", line.range.start,
                     line.name),
         "such a process can't be carried"});
    return;
  }
  // Another file has the name now: this one is as good as deleted. (The device isn't compared:
  // btrfs and overlayfs show different ones in maps and stat.)
  if (!found || status.st_ino != line.inode) {
    add_object_mapping(inventory, input, line, std::move(mapping));
    return;
  }
  mapping.kind = Mapping::Kind::file;
  mapping.backing = add_file(inventory, input.earlier, fd.get(), line.name);
  inventory.mapped_files.insert(mapping.backing);
  if (mapping.shared && mapping.may_write) {
    inventory.open_files.insert(mapping.backing);
    inventory.written_files.insert(mapping.backing);
  }
  inventory.mappings.push_back(std::move(mapping));
}

}  // namespace

// The kernel walks all pages of a mapping to write its record, and does so again when the record
// doesn't fit into the page that it fills. It writes records until there are as many bytes as asked
// for: with less than a page minus a record, none is written twice.
std::vector<SmapsEntry> read_smaps(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/smaps", pid);
  const UniqueFd fd = open_or_throw(path, O_RDONLY);
  std::string text;
  char part[3072];
  for (;;) {
    const ssize_t n = ::read(fd.get(), part, sizeof part);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("read", path);
    if (n == 0) return parse_smaps(text);
    text.append(part, static_cast<size_t>(n));
  }
}

void refresh_flags(Inventory& inventory, const std::vector<SmapsEntry>& smaps) {
  for (Mapping& mapping : inventory.mappings) {
    const SmapsEntry* entry = entry_for(smaps, mapping.range);
    if (entry == nullptr) continue;
    set_flags(mapping, *entry);
    const std::string obstacle = obstacle_in(mapping.name, entry);
    if (!obstacle.empty()) add_obstacle(inventory, mapping.range, obstacle);
  }
}

void add_mappings(Inventory& inventory, const InventoryInput& input) {
  // Nobody else has a write lease on what this process has open.
  const auto leases = holds_lease(input.pid) ? image::Leases::of_this_host() : image::Leases("");
  AttachedSegments segments(inventory, input);
  for (const MapsLine& line : input.maps) {
    const SmapsEntry* entry = entry_for(input.smaps, line.range);
    Mapping mapping = common_part(line, entry);
    if (const std::string obstacle = obstacle_in(line.name, entry); !obstacle.empty()) {
      add_obstacle(inventory, line.range, obstacle);
    } else if (line.name.starts_with("[vvar")) {
      mapping.kind = Mapping::Kind::vvar;
      inventory.mappings.push_back(std::move(mapping));
    } else if (line.name == "[vdso]") {
      mapping.kind = Mapping::Kind::vdso;
      inventory.mappings.push_back(std::move(mapping));
    } else if (line.name == "/anon_hugepage" && !line.shared) {
      mapping.offset = 0;
      inventory.mappings.push_back(std::move(mapping));
    } else if (segments.is_segment(line)) {  // the first one's id, its inode, is 0
      segments.add(line, std::move(mapping));
    } else if (line.inode == 0) {
      mapping.offset = 0;
      inventory.mappings.push_back(std::move(mapping));
    } else if (line.deleted || line.name.starts_with("[anon_shmem:")) {
      add_object_mapping(inventory, input, line, std::move(mapping));
    } else {
      add_file_mapping(inventory, input, line, leases, std::move(mapping));
    }
  }
  segments.finish();
}

}  // namespace rfork::tracer
