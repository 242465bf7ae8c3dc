#include "tracer/attached_segments.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/io.h"
#include "tracer/ipc_namespace.h"
#include "tracer/shared_objects.h"

namespace rfork::tracer {

using image::Mapping;
using image::Object;
using image::SysvTableLine;

namespace {

constexpr uint64_t kPage = 4096;
// A memfd on the same device may have a segment's id as its inode.
constexpr uint64_t kNoDevice = ~uint64_t{0};
constexpr std::string_view kName = "/SYSV";

uint64_t device_of_memfds() {
  struct stat status {};
  const UniqueFd fd = make_memfd("rfork-device");
  return ::fstat(fd.get(), &status) == 0 ? status.st_dev : 0;
}

uint64_t whole_pages(uint64_t size) {
  return (size + kPage - 1) & ~(kPage - 1);
}

bool has_key(const std::string& name, int32_t key) {
  return name == fmt::format("{}{:08x}", kName, static_cast<uint32_t>(key));
}

}  // namespace

AttachedSegments::AttachedSegments(Inventory& inventory, const InventoryInput& input)
    : inventory_(inventory), input_(input) {}

bool AttachedSegments::is_segment(const MapsLine& line) const {
  if (!line.deleted || !line.shared || !line.name.starts_with(kName)) return false;
  return line.device == device_of_memfds();
}

void AttachedSegments::read_table() {
  has_table_ = true;
  inventory_.ipc_namespace = std::make_shared<IpcNamespace>(input_.pid);
  if (const auto text = inventory_.ipc_namespace->segments())
    table_ = image::parse_sysv_lines(*text);
}

/// What the table says of it. A process can keep segments of a namespace that it has left, so the
/// id alone doesn't say that it is the same.
std::optional<SysvTableLine> AttachedSegments::find(const MapsLine& line) {
  if (!has_table_) read_table();
  const auto found = std::ranges::find_if(table_, [&](const SysvTableLine& one) {
    return static_cast<uint64_t>(one.segment.id) == line.inode;
  });
  if (found == table_.end()) return std::nullopt;
  const image::SysvSegment& segment = found->segment;
  const bool same = (segment.removed || has_key(line.name, segment.key)) &&
                    line.offset + line.range.size() <= whole_pages(segment.size);
  return same ? std::optional(*found) : std::nullopt;
}

void AttachedSegments::add(const MapsLine& line, Mapping mapping) {
  const auto found = find(line);
  if (!found) {
    inventory_.obstacles.push_back(
        {fmt::format("the mapping at {:#x}-{:#x} is SysV shared memory of an IPC namespace that "
                     "can't be looked into, which can't be carried",
                     line.range.start, line.range.end),
         "trace it as root, or from its own IPC namespace"});
    return;
  }
  Object object;
  object.kind = Object::Kind::sysv_segment;
  object.name = line.name;
  object.size = whole_pages(found->segment.size);
  object.mode = found->segment.mode;
  object.segment = found->segment;
  object.segment->ipc_namespace = inventory_.ipc_namespace->inode();
  mapping.kind = Mapping::Kind::object;
  mapping.backing = add_object(inventory_, object, kNoDevice, line.inode, UniqueFd());
  ObjectSource& source = inventory_.object_sources.at(mapping.backing);
  if (!source.holes) {
    source.holes = try_open(
        fmt::format("/proc/{}/map_files/{:x}-{:x}", input_.pid, line.range.start, line.range.end),
        O_RDONLY);
  }
  inventory_.mappings.push_back(std::move(mapping));
}

/// How often a process has attached it: parts of an attachment count each, as the kernel counts.
uint64_t AttachedSegments::attachments(pid_t pid, int32_t id) const {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/maps", pid));
  if (!text || text->find(kName) == std::string::npos) return 0;
  const std::vector<MapsLine> maps = parse_maps(*text);
  return static_cast<uint64_t>(std::ranges::count_if(maps, [&](const MapsLine& line) {
    return line.deleted && line.name.starts_with(kName) && line.inode == static_cast<uint64_t>(id);
  }));
}

void AttachedSegments::refuse_shared(const Object& object) {
  const image::SysvSegment& segment = *object.segment;
  const auto line = std::ranges::find_if(
      table_, [&](const SysvTableLine& one) { return one.segment.id == segment.id; });
  uint64_t own =
      static_cast<uint64_t>(std::ranges::count_if(inventory_.mappings, [&](const Mapping& mapping) {
        return mapping.kind == Mapping::Kind::object && mapping.backing == object.id;
      }));
  if (input_.copy != 0) own += attachments(input_.copy, segment.id);
  if (line->attached <= own) return;
  std::string others;
  uint64_t left = line->attached - own;
  for (const pid_t pid : try_list_numbers("/proc").value_or(std::vector<int>())) {
    if (pid == input_.pid || pid == input_.copy) continue;
    const uint64_t count = attachments(pid, segment.id);
    if (count == 0) continue;
    if (input_.leave_children && descends_from(pid, input_.pid)) {
      left -= std::min(left, count);
    } else {
      others = fmt::format("process {} ({})", pid, name_of(pid));
    }
  }
  if (left == 0) return;
  inventory_.obstacles.push_back(
      {fmt::format("SysV segment {} (key {:#x}) is shared memory that {} has attached too, which "
                   "can't be carried",
                   segment.id, static_cast<uint32_t>(segment.key),
                   others.empty() ? "another process" : others),
       "--own-segments goes on with one of its own there"});
}

/// What no mapping shows is state too: a later shmat(2) would find it.
void AttachedSegments::read_rest(const Object& object) {
  std::vector<Range> shown;
  for (const Mapping& mapping : inventory_.mappings) {
    if (mapping.kind == Mapping::Kind::object && mapping.backing == object.id)
      shown.push_back({mapping.offset, mapping.offset + mapping.range.size()});
  }
  std::ranges::sort(shown, {}, &Range::start);
  uint64_t end = 0;
  for (const Range& range : shown) {
    if (range.start > end) break;
    end = std::max(end, range.end);
  }
  if (end >= object.size) return;
  UniqueFd all = inventory_.ipc_namespace->contents(object.segment->id, object.size);
  if (!all) {
    inventory_.obstacles.push_back(
        {fmt::format("SysV segment {} is attached in part only, and may not be read as a whole",
                     object.segment->id),
         "trace it as root"});
  }
  inventory_.object_sources.at(object.id).fd = std::move(all);
}

void AttachedSegments::finish() {
  for (const Object& object : inventory_.objects) {
    if (!object.segment) continue;
    if (!input_.forked && !input_.own_segments) refuse_shared(object);
    read_rest(object);
  }
}

}  // namespace rfork::tracer
