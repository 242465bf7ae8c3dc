#include "image/validate.h"

#include <cstring>
#include <tuple>
#include <unordered_map>

#include "image/fanotify.h"
#include "image/format.h"

namespace rfork::image {

namespace {

constexpr uint64_t kMaxFileSize = INT64_MAX - kPageSize;

template <typename T>
std::vector<uint32_t> unique_ids(const std::vector<T>& items, NoteType note) {
  std::vector<uint32_t> ids;
  ids.reserve(items.size());
  for (const T& item : items) ids.push_back(item.id);
  std::ranges::sort(ids);
  const auto twice = std::ranges::adjacent_find(ids);
  require(twice == ids.end(), note, "id {} is there twice", twice == ids.end() ? 0 : *twice);
  return ids;
}

void validate_host(const Host& host) {
  constexpr NoteType kNote = NoteType::host;
  require(is_power_of_two(host.page_size) && host.page_size >= kPageSize &&
              host.page_size <= (1u << 20),
          kNote, "page_size is {}", host.page_size);
  require(host.address_limit >= kPageSize && host.address_limit <= uint64_t{1} << 56 &&
              host.address_limit % kPageSize == 0,
          kNote, "address_limit is {:#x}", host.address_limit);
  uint64_t seen = 0;
  for (const XstateComponent& component : host.xstate) {
    // The first two are the FXSAVE area, the last bit of XCR0 is reserved.
    require(component.index >= 2 && component.index < 63 && (seen >> component.index & 1) == 0,
            kNote, "xstate has a wrong index {}", component.index);
    seen |= uint64_t{1} << component.index;
    require(component.offset >= 576 && component.offset <= 65536 && component.size > 0 &&
                component.size <= 65536,
            kNote, "xstate component {} has a wrong place", component.index);
  }
}

void validate_file(const File& file) {
  constexpr NoteType kNote = NoteType::files;
  require(is_path(file.path), kNote, "file {} has no absolute path", file.id);
  require(file.size <= kMaxFileSize, kNote, "file {} has the size {}", file.id, file.size);
  require(file.mode <= 0177777, kNote, "file {} has the mode {:o}", file.id, file.mode);
}

void validate_object(const Object& object, const KnownIds& known) {
  constexpr NoteType kNote = NoteType::objects;
  const bool named = object.kind == Object::Kind::file || object.kind == Object::Kind::file_pages;
  require(object.file.has_value() == named, kNote, "object {} and its file don't fit", object.id);
  require(!object.file || KnownIds::has(known.files, *object.file), kNote,
          "object {} names an unknown file", object.id);
  require(object.size <= kMaxFileSize, kNote, "object {} has the size {}", object.id, object.size);
  require(object.mode <= 0177777, kNote, "object {} has the mode {:o}", object.id, object.mode);
  require(object.name.size() < 65536 && !has_nul(object.name), kNote, "object {} has a wrong name",
          object.id);
  require(object.huge_page_size == 0 || is_power_of_two(object.huge_page_size), kNote,
          "object {} has the huge page size {}", object.id, object.huge_page_size);
}

void validate_segment(const Object& object) {
  constexpr NoteType kNote = NoteType::objects;
  require(object.segment.has_value() == (object.kind == Object::Kind::sysv_segment), kNote,
          "object {} and its segment don't fit", object.id);
  if (!object.segment) return;
  const SysvSegment& segment = *object.segment;
  require(segment.id >= 0 && segment.mode <= 0777, kNote, "object {} is a wrong segment",
          object.id);
  require(segment.size > 0 && segment.size <= object.size && object.size % kPageSize == 0, kNote,
          "object {} is a segment of {} bytes", object.id, segment.size);
}

/// Attached memory is shared, and ends with its segment.
void validate_attachments(const Snapshot& snapshot) {
  for (const Process& process : snapshot.processes) {
    for (const Mapping& mapping : process.mappings) {
      const Object* const object = mapping.kind == Mapping::Kind::object
                                       ? find_id(snapshot.objects, mapping.backing)
                                       : nullptr;
      if (object == nullptr || !object->segment) continue;
      require(mapping.shared && mapping.offset + mapping.range.size() <= object->size,
              NoteType::mappings, "the mapping at {:#x} isn't within its segment",
              mapping.range.start);
    }
  }
}

void validate_watches(const Description& description, const KnownIds& known) {
  constexpr NoteType kNote = NoteType::descriptions;
  int32_t before = 0;
  for (const InotifyWatch& watch : description.inotify) {
    require(watch.wd > before, kNote, "description {} has the watch {} behind {}", description.id,
            watch.wd, before);
    before = watch.wd;
    require(watch.object ? KnownIds::has(known.objects, *watch.object) : is_path(watch.path), kNote,
            "description {} watches nothing by {}", description.id, watch.wd);
  }
}

void validate_marks(const Description& description, const KnownIds& known) {
  constexpr NoteType kNote = NoteType::descriptions;
  require(description.kind != Description::Kind::fanotify || description.fanotify, kNote,
          "description {} says nothing of its group", description.id);
  if (!description.fanotify) return;
  for (const FanotifyMark& mark : description.fanotify->marks) {
    require((mark.flags & ~kFanMarkFlags) == 0 && (mark.flags & kFanWide) != kFanWide, kNote,
            "description {} has a mark with the flags {:#x}", description.id, mark.flags);
    require((mark.mask | mark.ignored) != 0 && ((mark.mask | mark.ignored) & kFanPermissions) == 0,
            kNote, "description {} has a mark of the events {:#x}", description.id, mark.mask);
    const bool wide = (mark.flags & kFanWide) != 0;
    require(mark.object ? !wide && KnownIds::has(known.objects, *mark.object) : is_path(mark.path),
            kNote, "description {} has a mark of nothing", description.id);
  }
}

/// Sequence numbers are modulo 2^32, so any will do; windows must fit them as TCP_REPAIR_WINDOW
/// wants it.
void validate_tcp(const Socket& socket, uint32_t id) {
  constexpr NoteType kNote = NoteType::descriptions;
  constexpr uint32_t kMostScale = 14, kMostSegment = 65535, kMostWindow = 1u << 30;
  constexpr int kStream = 1, kTcp = 6, kIpv4 = 2, kIpv6 = 10;
  const TcpConnection& tcp = *socket.tcp;
  require(socket.kept && (socket.family == kIpv4 || socket.family == kIpv6) &&
              socket.type == kStream && (socket.protocol == 0 || socket.protocol == kTcp) &&
              !socket.listening && !socket.name.empty() && !socket.peer.empty(),
          kNote, "description {} is no TCP connection", id);
  require(tcp.segment_size > 0 && tcp.segment_size <= kMostSegment &&
              tcp.send_scale <= kMostScale && tcp.receive_scale <= kMostScale,
          kNote, "description {} is a TCP connection with wrong options", id);
  require(tcp.send_window <= tcp.largest_window && tcp.largest_window <= kMostWindow &&
              tcp.receive_window <= kMostWindow,
          kNote, "description {} is a TCP connection with a wrong window", id);
}

void validate_socket(const Socket& socket, uint32_t id, const KnownIds& known) {
  constexpr NoteType kNote = NoteType::descriptions;
  constexpr size_t kMostName = 128;  // struct sockaddr_storage
  const auto is_address = [&](const Bytes& name) {
    uint16_t family = 0;
    if (name.size() < sizeof family || name.size() > kMostName) return name.empty();
    std::memcpy(&family, name.data(), sizeof family);
    return family == socket.family;
  };
  require(is_address(socket.name) && is_address(socket.peer), kNote,
          "description {} has a wrong address", id);
  if (socket.tcp) validate_tcp(socket, id);
  require(socket.backlog >= 0 && socket.filter.size() % 8 == 0 && socket.interface.size() < 16,
          kNote, "description {} is a wrong socket", id);
  for (const SocketOption& option : socket.options) {
    require(option.value.size() <= 64, kNote, "description {} has a wrong option", id);
  }
  for (const SocketMessage& message : socket.messages) {
    require(is_address(message.from), kNote, "description {} has a message from nowhere", id);
    for (const uint32_t passed : message.descriptions) {
      require(KnownIds::has(known.descriptions, passed), kNote,
              "description {} passes an unknown one on", id);
    }
  }
}

void validate_description(const Description& description, const KnownIds& known) {
  constexpr NoteType kNote = NoteType::descriptions;
  using Kind = Description::Kind;
  const bool by_path = description.kind == Kind::regular || description.kind == Kind::directory ||
                       description.kind == Kind::device || description.kind == Kind::fifo ||
                       description.kind == Kind::kernel_file || description.kind == Kind::path;
  require(by_path ? is_path(description.path) : !has_nul(description.path), kNote,
          "description {} has a wrong path", description.id);
  require(description.kind != Kind::regular || description.file, kNote,
          "description {} names no file", description.id);
  require(description.kind != Kind::contents || description.object, kNote,
          "description {} names no object", description.id);
  require(!description.file || KnownIds::has(known.files, *description.file), kNote,
          "description {} names an unknown file", description.id);
  require(!description.object || KnownIds::has(known.objects, *description.object), kNote,
          "description {} names an unknown object", description.id);
  for (const FileLock& lock : description.locks) {
    require(lock.start <= INT64_MAX && lock.size <= INT64_MAX - lock.start, kNote,
            "description {} has a wrong lock at {:#x}", description.id, lock.start);
  }
  require(description.kind != Kind::path || description.file || description.removed, kNote,
          "description {} names no file", description.id);
  validate_watches(description, known);
  validate_marks(description, known);
  const bool alone = description.kind == Kind::socket && description.other == 0;
  const bool paired = description.kind == Kind::pipe || description.kind == Kind::socket ||
                      description.kind == Kind::fifo || description.kind == Kind::pseudo_terminal;
  require(!paired || alone || KnownIds::has(known.descriptions, description.other), kNote,
          "description {} names an unknown other one", description.id);
  require(description.kind != Kind::pseudo_terminal || description.terminal, kNote,
          "description {} says nothing of its terminal", description.id);
  if (description.socket) validate_socket(*description.socket, description.id, known);
  require(description.timer.value_ns >= 0 && description.timer.interval_ns >= 0, kNote,
          "description {} has a wrong time", description.id);
  require(description.offset >= 0, kNote, "description {} has the offset {}", description.id,
          description.offset);
}

void validate_numbers(const Snapshot& snapshot) {
  std::vector<int32_t> pids;
  std::vector<int32_t> tids;
  for (const Process& process : snapshot.processes) {
    pids.push_back(process.pid);
    for (const Thread& thread : process.threads) tids.push_back(thread.tid);
  }
  std::ranges::sort(pids);
  std::ranges::sort(tids);
  require(std::ranges::adjacent_find(pids) == pids.end(), NoteType::process,
          "a pid is there twice");
  require(std::ranges::adjacent_find(tids) == tids.end(), NoteType::threads,
          "a tid is there twice");
}

[[noreturn]] void bad_run(const DataRun& run, const char* why) {
  throw std::runtime_error(
      fmt::format("the run {:#x}-{:#x} of {} {} {}", run.range.start, run.range.end,
                  run.target == DataRun::Target::memory ? "process" : "object", run.owner, why));
}

void validate_memory_run(const Snapshot& snapshot, const DataRun& run) {
  if (run.owner >= snapshot.processes.size()) bad_run(run, "names an unknown process");
  const auto& mappings = snapshot.processes[run.owner].mappings;
  const auto found = std::ranges::upper_bound(mappings, run.range.start, {},
                                              [](const Mapping& m) { return m.range.end; });
  if (found == mappings.end() || !found->range.contains(run.range)) {
    bad_run(run, "is not within a mapping");
  }
  if (found->kind == Mapping::Kind::vvar) bad_run(run, "is in pages of the kernel");
  if (run.range.end % kPageSize != 0) bad_run(run, "is not page-aligned");
}

using ObjectSizes = std::unordered_map<uint32_t, uint64_t>;

void validate_object_run(const ObjectSizes& sizes, const DataRun& run) {
  const auto found = sizes.find(run.owner);
  if (found == sizes.end()) bad_run(run, "names an unknown object");
  const uint64_t size = found->second;
  if (run.range.end > ((size + kPageSize - 1) & ~(kPageSize - 1))) {
    bad_run(run, "is not within the object");
  }
  if (run.range.end % kPageSize != 0 && run.range.end != size) {
    bad_run(run, "is not page-aligned");
  }
}

}  // namespace

void validate(const Snapshot& snapshot) {
  validate_host(snapshot.host);
  KnownIds known;
  known.files = unique_ids(snapshot.files, NoteType::files);
  known.objects = unique_ids(snapshot.objects, NoteType::objects);
  known.descriptions = unique_ids(snapshot.descriptions, NoteType::descriptions);
  for (const File& file : snapshot.files) validate_file(file);
  for (const Object& object : snapshot.objects) {
    validate_object(object, known);
    validate_segment(object);
  }
  for (const Description& description : snapshot.descriptions) {
    validate_description(description, known);
  }
  require(!snapshot.processes.empty(), NoteType::process, "there is no process");
  for (const Process& process : snapshot.processes) {
    validate_process(snapshot.host, known, process);
  }
  validate_attachments(snapshot);
  validate_numbers(snapshot);
  constexpr size_t kMostHolderName = 100;  // struct sockaddr_un
  require(!snapshot.holder ||
              (!snapshot.holder->name.empty() && snapshot.holder->name.size() <= kMostHolderName),
          NoteType::snapshot, "the holder of connections has a wrong name");
}

void validate_runs(const Snapshot& snapshot, std::span<const DataRun> runs) {
  ObjectSizes sizes;
  for (const Object& object : snapshot.objects) sizes.emplace(object.id, object.size);
  for (const DataRun& run : runs) {
    if (run.range.start >= run.range.end) bad_run(run, "is empty");
    if (run.range.start % kPageSize != 0) bad_run(run, "is not page-aligned");
    if (run.target == DataRun::Target::memory) {
      validate_memory_run(snapshot, run);
    } else {
      validate_object_run(sizes, run);
    }
  }
  std::vector<DataRun> sorted(runs.begin(), runs.end());
  std::ranges::sort(sorted, {}, [](const DataRun& run) {
    return std::tuple(run.target, run.owner, run.range.start);
  });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const DataRun& last = sorted[i - 1];
    const DataRun& run = sorted[i];
    if (run.target == last.target && run.owner == last.owner && run.range.start < last.range.end) {
      bad_run(run, "overlaps another");
    }
  }
}

}  // namespace rfork::image
