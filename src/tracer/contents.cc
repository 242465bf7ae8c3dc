#include "tracer/contents.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/io.h"
#include "image/format.h"
#include "tracer/page_scan.h"

namespace rfork::tracer {

namespace {

using image::DataRun;
using image::Mapping;
using image::Object;

constexpr uint64_t kPage = image::kPageSize;

uint64_t page_down(uint64_t value) {
  return value & ~(kPage - 1);
}
uint64_t page_up(uint64_t value) {
  return (value + kPage - 1) & ~(kPage - 1);
}

bool is_private_memory(const Mapping& mapping) {
  return !mapping.shared && mapping.kind != Mapping::Kind::vdso &&
         mapping.kind != Mapping::Kind::vvar;
}

bool overlaps_any(const std::vector<Range>& ranges, const Range& range) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const Range& other) { return other.overlaps(range); });
}

// To look for data moves the offset, and the process itself may have the same open file.
class KeptOffset {
 public:
  explicit KeptOffset(int fd) : fd_(fd), offset_(::lseek(fd, 0, SEEK_CUR)) {}
  ~KeptOffset() {
    if (offset_ >= 0) ::lseek(fd_, offset_, SEEK_SET);
  }
  KeptOffset(const KeptOffset&) = delete;
  KeptOffset& operator=(const KeptOffset&) = delete;

 private:
  int fd_;
  off_t offset_;
};

// Ranges of `fd` that hold data, page-aligned but for the end of the file.
std::vector<Range> data_ranges(int fd, uint64_t size) {
  const KeptOffset kept(fd);
  std::vector<Range> ranges;
  for (uint64_t at = 0; at < size;) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return {{0, size}};  // a file system without holes
    off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) hole = static_cast<off_t>(size);
    const Range range{page_down(static_cast<uint64_t>(data)),
                      std::min(page_up(static_cast<uint64_t>(hole)), size)};
    if (range.start >= range.end) break;
    if (!ranges.empty() && ranges.back().end >= range.start) {
      ranges.back().end = range.end;
    } else {
      ranges.push_back(range);
    }
    at = range.end;
  }
  return ranges;
}

// Ranges of a backing that mappings show, each with an address where it can be read; not
// overlapping.
struct Window {
  Range range;
  uint64_t address = 0;
};

// The parts of `window` that none of `taken` overlaps.
std::vector<Window> parts_outside(const Window& window, const std::vector<Window>& taken) {
  std::vector<Window> parts{window};
  for (const Window& other : taken) {
    std::vector<Window> left;
    for (const Window& part : parts) {
      const Range before{part.range.start, std::min(part.range.end, other.range.start)};
      const Range after{std::max(part.range.start, page_up(other.range.end)), part.range.end};
      if (!part.range.overlaps(other.range)) {
        left.push_back(part);
        continue;
      }
      if (before.start < before.end) left.push_back({before, part.address});
      if (after.start < after.end) {
        left.push_back({after, part.address + (after.start - part.range.start)});
      }
    }
    parts = std::move(left);
  }
  return parts;
}

std::vector<Window> windows(const Inventory& inventory, Mapping::Kind kind, uint32_t backing,
                            uint64_t size) {
  std::vector<Window> all;
  // A private mapping shows its own changes, so it is looked through only where no shared one
  // looks.
  for (const bool shared : {true, false}) {
    for (const Mapping& mapping : inventory.mappings) {
      if (mapping.kind != kind || mapping.backing != backing || mapping.offset >= size) continue;
      if (mapping.shared != shared) continue;
      const uint64_t end = std::min(mapping.offset + mapping.range.size(), size);
      const auto parts = parts_outside({{mapping.offset, end}, mapping.range.start}, all);
      all.insert(all.end(), parts.begin(), parts.end());
    }
  }
  return all;
}

void add_windows(std::vector<Piece>& pieces, const Inventory& inventory, const Object& object,
                 Mapping::Kind kind, uint32_t backing, int fd, const ProcessMemory& memory) {
  for (const Window& window : windows(inventory, kind, backing, object.size)) {
    Piece piece;
    piece.run = {DataRun::Target::object, object.id, window.range};
    piece.fd = fd;
    piece.memory = &memory;
    piece.address = window.address;
    pieces.push_back(piece);
  }
}

void add_memory_runs(Contents& contents, const PageScanner& scanner, const ProcessMemory& memory,
                     const Mapping& mapping) {
  // Programs keep in it what no copy may have, too: the state of vgetrandom(7), for one.
  if ((mapping.advice & Mapping::droppable) != 0) return;
  // A page of zeros over a file's page is a change; over nothing it is nothing.
  const bool skip_zero = mapping.kind == Mapping::Kind::anonymous;
  const PageScanner::Found found =
      scanner.find(mapping.range, PageScanner::Want::private_pages, skip_zero);
  contents.guards.insert(contents.guards.end(), found.guards.begin(), found.guards.end());
  for (const Range& run : found.pages) {
    Piece piece;
    piece.run = {DataRun::Target::memory, 0, run};
    piece.memory = &memory;
    piece.address = run.start;
    contents.pieces.push_back(piece);
  }
}

// The addresses where `window` shows what isn't a hole of `file`, which may be none (-1).
std::vector<Range> data_addresses(const Window& window, int file) {
  const Range whole{window.range.start, page_up(window.range.end)};
  std::vector<Range> ranges{whole};
  if (file >= 0) ranges = data_ranges(file, whole.end);
  std::vector<Range> addresses;
  for (const Range& range : ranges) {
    const Range shown{std::max(range.start, whole.start), std::min(page_up(range.end), whole.end)};
    if (shown.start >= shown.end) continue;
    addresses.push_back(
        {window.address + (shown.start - whole.start), window.address + (shown.end - whole.start)});
  }
  return addresses;
}

// Whether what isn't in memory, nor swapped out, is nowhere.
bool tells_residents(const Object& object) {
  return object.kind != Object::Kind::deleted_file && object.huge_page_size == 0;
}

std::vector<Range> resident_ones(const std::vector<Range>& addresses,
                                 const ResidentPages& resident) {
  std::vector<Range> all;
  for (const Range& range : addresses) {
    const std::vector<Range> part = resident.within(range);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

// Contents of an object that has no descriptor: only what mappings show of it, without the zero
// pages.
void add_mapped_object(std::vector<Piece>& pieces, const Inventory& inventory, const Object& object,
                       const ProcessMemory& original, const ResidentPages& resident) {
  const PageScanner scanner(original);
  const int holes = inventory.object_sources.at(object.id).holes.get();
  for (const Window& window : windows(inventory, Mapping::Kind::object, object.id, object.size)) {
    std::vector<Range> addresses = data_addresses(window, holes);
    if (holes < 0 && tells_residents(object)) addresses = resident_ones(addresses, resident);
    for (const Range& run : scanner.without_zero_pages(addresses)) {
      const uint64_t offset = window.range.start + (run.start - window.address);
      Piece piece;
      piece.run = {
          DataRun::Target::object, object.id, {offset, std::min(offset + run.size(), object.size)}};
      piece.memory = &original;
      piece.address = run.start;
      piece.shown = true;
      pieces.push_back(piece);
    }
  }
}

// Shared memory is read whole where it is, but what guards it counts for each mapping.
void add_guards_of_shared(Contents& contents, const Inventory& inventory,
                          const ProcessMemory& original) {
  const auto is_shared = [](const Mapping& mapping) {
    return mapping.shared && mapping.kind != Mapping::Kind::vvar;
  };
  if (std::ranges::none_of(inventory.mappings, is_shared)) return;
  const PageScanner scanner(original);
  for (const Mapping& mapping : inventory.mappings) {
    if (!is_shared(mapping)) continue;
    const std::vector<Range> guards = scanner.guards(mapping.range);
    contents.guards.insert(contents.guards.end(), guards.begin(), guards.end());
  }
}

// What the process only reads need not be read while it stands still.
bool only_read(const Inventory& inventory, const Object& object) {
  return object.kind == Object::Kind::file && !inventory.written_files.contains(*object.file) &&
         !inventory.own_readers.contains(*object.file);
}

void add_whole_object(std::vector<Piece>& pieces, const Object& object, int fd) {
  for (const Range& range : data_ranges(fd, object.size)) {
    Piece piece;
    piece.run = {DataRun::Target::object, object.id, range};
    piece.fd = fd;
    pieces.push_back(piece);
  }
}

}  // namespace

namespace {

// What is under a write lease of the process is read through its own descriptor, for to open it
// would break the lease, and so is what its mode forbids to open.
UniqueFd open_contents(const Inventory& inventory, pid_t pid, const image::File& file) {
  const auto reader = inventory.own_readers.find(file.id);
  if (reader == inventory.own_readers.end()) return open_in_process(pid, file.path, O_RDONLY);
  UniqueFd fd = duplicate_descriptor(pid, reader->second);
  if (fd && (::fcntl(fd.get(), F_GETFL) & O_ACCMODE) != O_WRONLY) return fd;
  errno = EACCES;
  return {};
}

}  // namespace

void add_file_objects(Inventory& inventory, pid_t pid, const ContentsOptions& options) {
  if (options.thin) return;
  std::vector<Reason> reasons;
  for (const image::File& file : inventory.files) {
    const bool whole = inventory.open_files.contains(file.id);
    if (options.present.contains(file.path)) continue;
    if (!whole && !inventory.mapped_files.contains(file.id)) continue;
    UniqueFd fd = open_contents(inventory, pid, file);
    if (!fd && whole) {
      reasons.push_back({fmt::format("the contents of {} can't be read: {}", file.path,
                                     std::generic_category().message(errno)),
                         "make it readable, or put it on the destination"});
      continue;
    }
    Object object;
    object.kind = whole ? Object::Kind::file : Object::Kind::file_pages;
    object.name = file.path;
    object.size = file.size;
    object.mode = file.mode & 07777;
    object.file = file.id;
    object.id = static_cast<uint32_t>(inventory.objects.size() + 1);
    inventory.objects.push_back(object);
    inventory.object_sources[object.id] = {std::move(fd), 0, 0};
  }
  if (!reasons.empty()) throw Refusal(Failure::cannot_carry, reasons);
}

void add_directories(Inventory& inventory, pid_t pid, const std::string& cwd) {
  using Kind = image::Description::Kind;
  std::set<std::string> directories{cwd};
  for (const image::Description& one : inventory.descriptions) {
    const bool named = one.kind == Kind::regular || one.kind == Kind::directory ||
                       one.kind == Kind::fifo || one.kind == Kind::path;
    if (named && one.file) directories.insert(one.path.substr(0, one.path.rfind('/')));
    if (named && one.file && one.kind == Kind::directory) directories.insert(one.path);
  }
  std::set<std::string> parents;
  for (std::string path : directories) {
    while (path.starts_with('/') && path.size() > 1 && parents.insert(path).second) {
      path.resize(path.rfind('/'));
    }
  }
  for (const std::string& path : parents) {
    const UniqueFd fd = open_in_process(pid, path, O_PATH | O_DIRECTORY | O_NOFOLLOW);
    if (fd) add_file(inventory, nullptr, fd.get(), path);
  }
}

void add_what_no_fork_copies(Contents& contents, const Inventory& inventory,
                             const ProcessMemory& original, const ResidentPages& resident,
                             const std::vector<Range>& not_forked) {
  std::vector<Piece>& pieces = contents.pieces;
  for (const Object& object : inventory.objects) {
    if (object.kind == Object::Kind::file_pages || only_read(inventory, object)) continue;
    const int fd = inventory.object_sources.at(object.id).fd.get();
    if (fd < 0) {
      add_mapped_object(pieces, inventory, object, original, resident);
      continue;
    }
    add_whole_object(pieces, object, fd);
  }
  add_guards_of_shared(contents, inventory, original);
  if (not_forked.empty()) return;
  const PageScanner scanner(original);
  for (const Mapping& mapping : inventory.mappings) {
    if (is_private_memory(mapping) && overlaps_any(not_forked, mapping.range)) {
      add_memory_runs(contents, scanner, original, mapping);
    }
  }
}

void add_snapshot(Contents& contents, const Inventory& inventory, const ProcessMemory& memory,
                  const std::vector<Range>& not_forked) {
  std::vector<Piece>& pieces = contents.pieces;
  for (const Object& object : inventory.objects) {
    const int fd = inventory.object_sources.at(object.id).fd.get();
    if (only_read(inventory, object)) add_whole_object(pieces, object, fd);
    if (object.kind != Object::Kind::file_pages) continue;
    add_windows(pieces, inventory, object, Mapping::Kind::file, *object.file, fd, memory);
  }
  const PageScanner scanner(memory);
  for (const Mapping& mapping : inventory.mappings) {
    if (mapping.kind == Mapping::Kind::vdso) {
      Piece piece;
      piece.run = {DataRun::Target::memory, 0, mapping.range};
      piece.memory = &memory;
      piece.address = mapping.range.start;
      pieces.push_back(piece);
    } else if (is_private_memory(mapping) && !overlaps_any(not_forked, mapping.range)) {
      add_memory_runs(contents, scanner, memory, mapping);
    }
  }
}

namespace {

// What a mapping shows of an object. Behind the object's end, and under a guard, there is nothing.
void read_shown(const ProcessMemory& memory, uint64_t address, std::span<std::byte> buffer) {
  if (memory.try_read(address, buffer)) return;
  while (!buffer.empty()) {
    const size_t size = std::min<size_t>(buffer.size(), kPage - address % kPage);
    if (!memory.try_read(address, buffer.first(size))) std::memset(buffer.data(), 0, size);
    buffer = buffer.subspan(size);
    address += size;
  }
}

}  // namespace

void read_piece(const Piece& piece, uint64_t offset, std::span<std::byte> buffer) {
  const uint64_t size = piece.run.range.size();
  const size_t wanted =
      offset >= size ? 0 : static_cast<size_t>(std::min<uint64_t>(buffer.size(), size - offset));
  std::span<std::byte> rest = buffer.first(wanted);
  if (piece.shown) {
    read_shown(*piece.memory, piece.address + offset, rest);
  } else if (piece.fd < 0) {
    piece.memory->read(piece.address + offset, rest);
  } else {
    uint64_t at = piece.run.range.start + offset;
    while (!rest.empty()) {
      const ssize_t n = ::pread(piece.fd, rest.data(), rest.size(), static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        const std::string subject =
            try_read_link(fmt::format("/proc/self/fd/{}", piece.fd)).value_or("?");
        throw Error("read (was the file cut meanwhile?)", n == 0 ? EIO : errno, subject,
                    Failure::cannot_carry);
      }
      rest = rest.subspan(static_cast<size_t>(n));
      at += static_cast<uint64_t>(n);
    }
  }
  std::memset(buffer.data() + wanted, 0, buffer.size() - wanted);
}

}  // namespace rfork::tracer
