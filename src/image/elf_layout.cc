#include "image/elf_layout.h"

#include <sys/mman.h>

#include <algorithm>
#include <tuple>

#include "image/format.h"

namespace rfork::image {

namespace {

uint32_t segment_flags(uint32_t protection) {
  return (protection & PROT_READ ? PF_R : 0) | (protection & PROT_WRITE ? PF_W : 0) |
         (protection & PROT_EXEC ? PF_X : 0);
}

Elf64_Phdr segment(uint32_t type, uint32_t flags, uint64_t offset, Range range, uint64_t owner) {
  Elf64_Phdr header{};
  header.p_type = type;
  header.p_flags = flags;
  header.p_offset = offset;
  header.p_vaddr = range.start;
  header.p_paddr = owner;
  header.p_filesz = range.size();
  header.p_memsz = range.size();
  header.p_align = kPageSize;
  return header;
}

Elf64_Phdr empty_load(const Mapping& mapping, Range range, uint64_t data_offset) {
  Elf64_Phdr header = segment(PT_LOAD, segment_flags(mapping.protection), data_offset, range, 0);
  header.p_filesz = 0;
  return header;
}

auto order_of(const PlacedRun& placed) {
  return std::tuple(placed.run.target, placed.run.owner, placed.run.range.start);
}

}  // namespace

SegmentPlan::SegmentPlan(const Snapshot& snapshot, std::span<const DataRun> runs)
    : snapshot_(snapshot) {
  runs_.reserve(runs.size());
  for (const DataRun& run : runs) {
    runs_.push_back({run, data_size_});
    data_size_ += padded_size(run);
  }
  std::ranges::sort(runs_, {}, order_of);
  for (const Object& object : snapshot.objects) {
    if (object.file) objects_of_files_.emplace_back(*object.file, object.id);
  }
  std::ranges::sort(objects_of_files_);
  for_each(0, [this](const Elf64_Phdr&) { ++count_; });
}

std::span<const PlacedRun> SegmentPlan::runs_of(DataRun::Target target, uint32_t owner) const {
  const auto found = std::ranges::equal_range(
      runs_, std::tuple(target, owner), {},
      [](const PlacedRun& placed) { return std::tuple(placed.run.target, placed.run.owner); });
  return {found.begin(), found.end()};
}

std::optional<uint32_t> SegmentPlan::object_behind(const Mapping& mapping) const {
  if (mapping.kind == Mapping::Kind::object) return mapping.backing;
  if (mapping.kind != Mapping::Kind::file) return std::nullopt;
  const auto found = std::ranges::lower_bound(objects_of_files_, mapping.backing, {},
                                              &std::pair<uint32_t, uint32_t>::first);
  if (found == objects_of_files_.end() || found->first != mapping.backing) return std::nullopt;
  return found->second;
}

void SegmentPlan::for_each(uint64_t data_offset, const Give& give) const {
  if (!snapshot_.processes.empty()) {
    for (const Mapping& mapping : snapshot_.processes[0].mappings) {
      // The kernel leaves these pages out of its own core files: they can't be read.
      if (mapping.kind != Mapping::Kind::vvar) mapping_segments(mapping, data_offset, give);
    }
  }
  for (const PlacedRun& placed : runs_) {
    const bool object = placed.run.target == DataRun::Target::object;
    if (!object && placed.run.owner == 0) continue;
    give(segment(object ? kSegmentObject : kSegmentMemory, PF_R, data_offset + placed.position,
                 placed.run.range, placed.run.owner));
  }
}

void SegmentPlan::mapping_segments(const Mapping& mapping, uint64_t data_offset,
                                   const Give& give) const {
  const auto runs = runs_of(DataRun::Target::memory, 0);
  auto next = std::ranges::lower_bound(runs, mapping.range.start, {}, [](const PlacedRun& placed) {
    return placed.run.range.start;
  });
  uint64_t cursor = mapping.range.start;
  for (; next != runs.end() && next->run.range.start < mapping.range.end; ++next) {
    gap_segments(mapping, {cursor, next->run.range.start}, data_offset, give);
    give(segment(PT_LOAD, segment_flags(mapping.protection), data_offset + next->position,
                 next->run.range, 0));
    cursor = next->run.range.end;
  }
  gap_segments(mapping, {cursor, mapping.range.end}, data_offset, give);
}

void SegmentPlan::gap_segments(const Mapping& mapping, Range gap, uint64_t data_offset,
                               const Give& give) const {
  const std::optional<uint32_t> object = object_behind(mapping);
  const auto runs =
      object ? runs_of(DataRun::Target::object, *object) : std::span<const PlacedRun>{};
  // All in offsets into the object, where nothing can wrap around.
  const auto in_object = [&](uint64_t address) {
    return address - mapping.range.start + mapping.offset;
  };
  const auto in_memory = [&](Range offsets) {
    return Range{offsets.start - mapping.offset + mapping.range.start,
                 offsets.end - mapping.offset + mapping.range.start};
  };
  const uint64_t end = in_object(gap.end);
  uint64_t cursor = in_object(gap.start);
  auto next = std::ranges::upper_bound(runs, cursor, {}, [](const PlacedRun& placed) {
    return placed.run.range.start + padded_size(placed.run);
  });
  for (; next != runs.end() && next->run.range.start < end; ++next) {
    const uint64_t start = next->run.range.start;
    const Range seen{std::max(cursor, start), std::min(end, start + padded_size(next->run))};
    if (cursor < seen.start) {
      give(empty_load(mapping, in_memory({cursor, seen.start}), data_offset));
    }
    give(segment(PT_LOAD, segment_flags(mapping.protection) | kFlagAlias,
                 data_offset + next->position + (seen.start - start), in_memory(seen), 0));
    cursor = seen.end;
  }
  if (cursor < end) give(empty_load(mapping, in_memory({cursor, end}), data_offset));
}

}  // namespace rfork::image
