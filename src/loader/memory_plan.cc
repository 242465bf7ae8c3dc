#include "loader/memory_plan.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <filesystem>

#include "base/io.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08  // Linux 6.11
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

namespace rfork::loader {

using image::DataRun;
using image::Mapping;
using plan::OpKind;

namespace {

constexpr uint64_t kPage = 4096;

/// Advice that must be there before the pages, because it decides how they are made.
constexpr std::pair<uint32_t, int> kEarlyAdvice[] = {
    {Mapping::huge_page, MADV_HUGEPAGE},
    {Mapping::no_huge_page, MADV_NOHUGEPAGE},
};
constexpr std::pair<uint32_t, int> kLateAdvice[] = {
    {Mapping::dont_fork, MADV_DONTFORK},    {Mapping::wipe_on_fork, MADV_WIPEONFORK},
    {Mapping::dont_dump, MADV_DONTDUMP},    {Mapping::mergeable, MADV_MERGEABLE},
    {Mapping::sequential, MADV_SEQUENTIAL}, {Mapping::random, MADV_RANDOM},
};

bool kernel_drops() {
  constexpr int kFlags = MAP_DROPPABLE | MAP_ANONYMOUS;
  void* const page = ::mmap(nullptr, kPage, PROT_READ, kFlags, -1, 0);
  if (page == MAP_FAILED) return false;
  ::munmap(page, kPage);
  return true;
}

/// MAP_SHARED and the like. Who uses memory that may be dropped does as well with such that never
/// is, but empties itself in a fork(2): MADV_WIPEONFORK comes with it.
uint64_t sharing_of(const Mapping& mapping) {
  if (mapping.shared) return MAP_SHARED;
  const bool dropped = (mapping.advice & Mapping::droppable) != 0 && kernel_drops();
  return dropped ? MAP_DROPPABLE : MAP_PRIVATE;
}

uint64_t flags_of(const Mapping& mapping) {
  uint64_t flags = MAP_FIXED_NOREPLACE | sharing_of(mapping);
  if (mapping.kind == Mapping::Kind::anonymous || mapping.kind == Mapping::Kind::vdso)
    flags |= MAP_ANONYMOUS;
  if (mapping.grows_down) flags |= MAP_GROWSDOWN;
  if (mapping.no_reserve) flags |= MAP_NORESERVE;
  if (mapping.huge_page_size != 0 && mapping.kind == Mapping::Kind::anonymous) {
    flags |= MAP_HUGETLB | static_cast<uint64_t>(__builtin_ctzll(mapping.huge_page_size))
                               << MAP_HUGE_SHIFT;
  }
  return flags;
}

/// As /sys/kernel/mm/transparent_hugepage says, for one size or another.
bool makes_huge_pages_unasked() {
  namespace fs = std::filesystem;
  const fs::path folder = "/sys/kernel/mm/transparent_hugepage";
  const auto always = [](const fs::path& file) {
    const auto chosen = try_read_file_at(AT_FDCWD, file);
    return chosen && chosen->find("[always]") != std::string::npos;
  };
  if (always(folder / "enabled")) return true;
  std::error_code none;
  for (const auto& size : fs::directory_iterator(folder, none)) {
    if (always(size.path() / "enabled")) return true;
  }
  return false;
}

}  // namespace

std::string words_of(const Mapping& mapping) {
  return fmt::format("{:#x}-{:#x}{}{}", mapping.range.start, mapping.range.end,
                     mapping.name.empty() ? "" : " of ", mapping.name);
}

MemoryPlan::MemoryPlan(const image::Metadata& metadata, std::vector<Mapping> mappings,
                       const ThreadFrames& frames, const HostFiles& files, SysvSegments& segments)
    : metadata_(metadata),
      process_(metadata.snapshot.processes[0]),
      mappings_(std::move(mappings)),
      frames_(frames),
      files_(files),
      segments_(segments) {
  for (const DataRun& run : metadata.runs) {
    if (run.target == DataRun::Target::memory) written_.push_back(run.range);
  }
  for (const auto& patch : process_.patches) {
    written_.push_back({patch.address, patch.address + patch.bytes.size()});
  }
  std::sort(written_.begin(), written_.end(), [](Range a, Range b) { return a.start < b.start; });
  for (const Mapping& mapping : mappings_) {
    if (mapping.kind != Mapping::Kind::object) continue;
    const Sink sink = files_.sink(mapping.backing);
    if (sink.kind != Sink::Kind::memory) continue;
    const auto* object = image::find_id(metadata.snapshot.objects, mapping.backing);
    SharedAnonymous& shared = shared_[mapping.backing];
    shared.whole = {sink.address, sink.address + ((object->size + kPage - 1) & ~(kPage - 1))};
    shared.parts.push_back(&mapping);
  }
}

bool MemoryPlan::made_whole(const Mapping& mapping) const {
  return mapping.kind == Mapping::Kind::object && shared_.contains(mapping.backing);
}

bool MemoryPlan::is_segment(const Mapping& mapping) const {
  return mapping.kind == Mapping::Kind::object && segments_.has(mapping.backing);
}

bool MemoryPlan::is_written(const Mapping& mapping) const {
  const auto after = std::partition_point(written_.begin(), written_.end(), [&](Range range) {
    return range.start < mapping.range.start;
  });
  if (after != written_.end() && after->overlaps(mapping.range)) return true;
  return after != written_.begin() && std::prev(after)->overlaps(mapping.range);
}

uint32_t MemoryPlan::first_protection(const Mapping& mapping) const {
  if (made_whole(mapping) || mapping.kind == Mapping::Kind::vdso) return PROT_READ | PROT_WRITE;
  if (is_segment(mapping)) return mapping.may_write ? PROT_READ | PROT_WRITE : PROT_READ;
  if (mapping.shared || !is_written(mapping)) return mapping.protection;
  return PROT_READ | PROT_WRITE;
}

void MemoryPlan::add_mappings(PlanWriter& plan, HandedFds& handed) const {
  add_protection_keys(plan);
  add_shared_anonymous(plan);
  segments_.add_making(plan);
  segments_.add_attachments(plan, mappings_);
  for (const Mapping& mapping : mappings_) {
    if (made_whole(mapping) || mapping.kind == Mapping::Kind::vvar) continue;
    if (!is_segment(mapping)) add_mapping(plan, handed, mapping);
    for (const auto& [bit, advice] : kEarlyAdvice) {
      if ((mapping.advice & bit) == 0) continue;
      plan.try_call(SYS_madvise,
                    {mapping.range.start, mapping.range.size(), static_cast<uint64_t>(advice)},
                    "madvise " + words_of(mapping));
    }
  }
  segments_.add_filling(plan);
}

void MemoryPlan::add_mapping(PlanWriter& plan, HandedFds& handed, const Mapping& mapping) const {
  const bool backed = mapping.kind == Mapping::Kind::file || mapping.kind == Mapping::Kind::object;
  const int fd = backed ? handed(files_.mapping_fd(mapping)) : -1;
  plan.call(SYS_mmap,
            {mapping.range.start, mapping.range.size(), first_protection(mapping),
             flags_of(mapping), static_cast<uint64_t>(fd), backed ? mapping.offset : 0},
            "mmap " + words_of(mapping), static_cast<int64_t>(mapping.range.start));
}

/// pkey_alloc(2) gives the lowest that is free, and execute-only mappings take one by themselves.
void MemoryPlan::add_protection_keys(PlanWriter& plan) const {
  const uint32_t keys = process_.protection_keys;
  for (uint64_t key = 1; keys >> key != 0; ++key) {
    plan.call(SYS_pkey_alloc, {0, PKEY_DISABLE_ACCESS}, fmt::format("pkey_alloc of {}", key),
              static_cast<int64_t>(key));
  }
  for (uint64_t key = 1; keys >> key != 0; ++key) {
    if ((keys >> key & 1) == 0)
      plan.call(SYS_pkey_free, {key}, fmt::format("pkey_free of {}", key));
  }
}

/// One mmap for all parts of it, so that they are one object; then the parts that the process had
/// unmapped go.
void MemoryPlan::add_shared_anonymous(PlanWriter& plan) const {
  for (const auto& [id, shared] : shared_) {
    const Mapping& first = *shared.parts.front();
    uint64_t flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    if (first.no_reserve) flags |= MAP_NORESERVE;
    if (first.huge_page_size != 0) {
      flags |= MAP_HUGETLB | static_cast<uint64_t>(__builtin_ctzll(first.huge_page_size))
                                 << MAP_HUGE_SHIFT;
    }
    plan.call(
        SYS_mmap,
        {shared.whole.start, shared.whole.size(), PROT_READ | PROT_WRITE, flags, UINT64_MAX, 0},
        fmt::format("mmap {:#x}-{:#x}, shared memory", shared.whole.start, shared.whole.end),
        static_cast<int64_t>(shared.whole.start));
  }
}

Sink MemoryPlan::sink_of(const DataRun& run) const {
  if (run.target == DataRun::Target::memory) return {Sink::Kind::memory, -1, 0};
  return segments_.has(run.owner) ? segments_.sink(run.owner) : files_.sink(run.owner);
}

/// Whether pages can be made of the run: none of it is there before. Not where huge pages are to be
/// had, which are quicker to fill and better to have.
bool MemoryPlan::is_absent(const DataRun& run) const {
  constexpr uint64_t kWorthwhile = 256u << 10;  // some system calls, for half of 50 us
  if (run.target != DataRun::Target::memory || run.range.size() < kWorthwhile) return false;
  const auto after = std::ranges::upper_bound(
      mappings_, run.range.start, {}, [](const Mapping& mapping) { return mapping.range.start; });
  if (after == mappings_.begin()) return false;
  const Mapping& mapping = *std::prev(after);
  return mapping.range.contains(run.range) && mapping.kind == Mapping::Kind::anonymous &&
         !mapping.shared && mapping.huge_page_size == 0 &&
         (mapping.advice & Mapping::huge_page) == 0;
}

void MemoryPlan::add_stream(PlanWriter& plan, HandedFds& handed) const {
  const bool placing =
      !makes_huge_pages_unasked() &&
      std::ranges::any_of(metadata_.runs, [&](const DataRun& run) { return is_absent(run); });
  if (placing) plan.op(OpKind::start_placing, {}, "userfaultfd");
  for (const DataRun& run : metadata_.runs) {
    const uint64_t size = run.range.size();
    const uint64_t padding = image::padded_size(run) - size;
    const Sink sink = sink_of(run);
    switch (sink.kind) {
      case Sink::Kind::memory:
        plan.op(OpKind::data_to_memory,
                {sink.address + run.range.start, size, placing && is_absent(run) ? 1u : 0u}, "");
        break;
      case Sink::Kind::file:
        plan.op(OpKind::data_to_file,
                {static_cast<uint64_t>(handed(sink.fd)), run.range.start, size}, "");
        break;
      case Sink::Kind::skip:
        plan.op(OpKind::data_skip, {size}, "");
        break;
    }
    if (padding != 0) plan.op(OpKind::data_skip, {padding}, "");
  }
  if (placing) plan.op(OpKind::end_placing, {}, "close of the userfaultfd");
}

void MemoryPlan::add_finish(PlanWriter& plan) const {
  for (const auto& patch : process_.patches) {
    plan.op(OpKind::copy, {patch.address, plan.data(patch.bytes), patch.bytes.size()}, "");
  }
  for (const auto& [id, shared] : shared_) {
    uint64_t at = shared.whole.start;
    for (const Mapping* part : shared.parts) {
      if (part->range.start > at)
        plan.call(SYS_munmap, {at, part->range.start - at}, "munmap of shared memory");
      at = part->range.end;
    }
    if (at < shared.whole.end)
      plan.call(SYS_munmap, {at, shared.whole.end - at}, "munmap of shared memory");
  }
  segments_.add_finish(plan);
  for (const Mapping& mapping : mappings_) {
    if (mapping.kind == Mapping::Kind::vvar || mapping.kind == Mapping::Kind::vdso) continue;
    add_state(plan, mapping);
  }
  if (process_.lock_future != 0) {
    plan.try_call(SYS_mlockall, {process_.lock_future}, "mlockall of mappings to come");
  }
}

void MemoryPlan::add_state(PlanWriter& plan, const Mapping& mapping) const {
  const uint64_t start = mapping.range.start, size = mapping.range.size();
  for (const Range& guard : mapping.guards) {
    plan.call(SYS_madvise, {guard.start, guard.size(), MADV_GUARD_INSTALL},
              "make guard regions in " + words_of(mapping));
  }
  for (const auto& [bit, advice] : kLateAdvice) {
    if ((mapping.advice & bit) == 0) continue;
    plan.try_call(SYS_madvise, {start, size, static_cast<uint64_t>(advice)},
                  "madvise " + words_of(mapping));
  }
  if (mapping.protection_key != 0) {
    plan.call(SYS_pkey_mprotect,
              {start, size, mapping.protection, static_cast<uint64_t>(mapping.protection_key)},
              "pkey_mprotect " + words_of(mapping));
  } else if (first_protection(mapping) != mapping.protection) {
    plan.call(SYS_mprotect, {start, size, mapping.protection}, "mprotect " + words_of(mapping));
  }
  if ((mapping.advice & Mapping::locked) != 0) {
    const uint64_t on_fault = (mapping.advice & Mapping::lock_on_fault) != 0 ? MLOCK_ONFAULT : 0;
    plan.try_call(SYS_mlock2, {start, size, on_fault}, "mlock2 " + words_of(mapping));
  }
  constexpr std::string_view kNamed = "[anon:";
  if (mapping.name.starts_with(kNamed) && mapping.name.ends_with(']')) {
    const std::string name =
        mapping.name.substr(kNamed.size(), mapping.name.size() - kNamed.size() - 1);
    plan.try_call(SYS_prctl, {PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, size, plan.text(name)},
                  "name " + words_of(mapping));
  }
  if (mapping.sealed) plan.call(SYS_mseal, {start, size, 0}, "mseal " + words_of(mapping));
}

}  // namespace rfork::loader
