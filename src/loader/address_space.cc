#include "loader/address_space.h"

#include <algorithm>

namespace rfork::loader {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLowest = 64 * 1024;
constexpr uint64_t kStackGrowth = 64ull << 20;  // more than the usual limit of 8 MiB
constexpr uint64_t kBrkGrowth = 64ull << 30;

// Text of position-independent programs starts at 0x555555554000 and is moved up by less than 2^44;
// the mmap area ends below 0x800000000000 by as much; a bottom-up layout starts at 0x2aaaaaaaa000
// (arch/x86/mm/mmap.c). Linked to fixed addresses, programs lie low, the stub at 0x10000000. These
// windows are far from all.
constexpr Range kHoleWindows[] = {
    {0x100000000000, 0x200000000000},
    {0x400000000000, 0x500000000000},
    {0x008000000000, 0x100000000000},
    {0x200000000000, 0x2aaaaaaa0000},
};

}  // namespace

AddressSpace::AddressSpace(std::span<const image::Mapping> mappings, uint64_t limit)
    : limit_(limit) {
  for (const image::Mapping& mapping : mappings) {
    taken_.push_back(mapping.range);
    if (mapping.grows_down) stacks_.push_back(mapping.range.start);
  }
  std::sort(taken_.begin(), taken_.end(), [](Range a, Range b) { return a.start < b.start; });
}

void AddressSpace::take(Range range) {
  const auto at = std::upper_bound(taken_.begin(), taken_.end(), range,
                                   [](Range a, Range b) { return a.start < b.start; });
  taken_.insert(at, range);
}

bool AddressSpace::is_free(Range range) const {
  return range.end <= limit_ && std::none_of(taken_.begin(), taken_.end(),
                                             [&](Range other) { return other.overlaps(range); });
}

std::optional<uint64_t> AddressSpace::lowest_fit(Range within, uint64_t size) const {
  uint64_t at = within.start;
  for (const Range& range : taken_) {
    if (range.end <= at) continue;
    if (range.start >= at + size) break;
    at = (range.end + kPage - 1) & ~(kPage - 1);
  }
  if (at + size > within.end || at + size > limit_) return std::nullopt;
  return at;
}

std::optional<uint64_t> AddressSpace::place_for_hole(uint64_t size) const {
  for (const Range& window : kHoleWindows) {
    if (const auto at = lowest_fit(window, size)) return at;
  }
  return std::nullopt;
}

std::optional<uint64_t> AddressSpace::place_to_stay(uint64_t size, uint64_t near,
                                                    uint64_t brk) const {
  const auto suits = [&](Range range) {
    if (range.start < kLowest || !is_free(range)) return false;
    if (range.overlaps({brk, brk + kBrkGrowth})) return false;
    return std::none_of(stacks_.begin(), stacks_.end(), [&](uint64_t stack) {
      return range.overlaps({stack - std::min(stack, kStackGrowth), stack});
    });
  };
  // Candidates end where something begins: the nearest below, then anything.
  for (auto range = taken_.rbegin(); range != taken_.rend(); ++range) {
    if (range->start > near || range->start < size) continue;
    if (suits({range->start - size, range->start})) return range->start - size;
    const uint64_t lower = range->start - std::min(range->start, kStackGrowth + size);
    if (suits({lower, lower + size})) return lower;
  }
  return place_for_hole(size);
}

}  // namespace rfork::loader
