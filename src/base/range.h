// A half-open range of addresses or offsets that can't overflow.
#pragma once

#include <cstdint>
#include <optional>

namespace rfork {

/// [start, end). Built only with start <= end.
struct Range {
  uint64_t start = 0;
  uint64_t end = 0;

  /// nullopt when start + size overflows.
  static std::optional<Range> sized(uint64_t start, uint64_t size) {
    uint64_t end;
    if (__builtin_add_overflow(start, size, &end)) return std::nullopt;
    return Range{start, end};
  }

  uint64_t size() const { return end - start; }
  bool empty() const { return start == end; }
  bool contains(uint64_t address) const { return address >= start && address < end; }
  bool contains(const Range& other) const { return other.start >= start && other.end <= end; }
  bool overlaps(const Range& other) const { return start < other.end && other.start < end; }
  bool operator==(const Range&) const = default;
};

}  // namespace rfork
