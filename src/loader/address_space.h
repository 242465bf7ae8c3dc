// Free places in the address space that a child is going to have. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/range.h"
#include "image/model.h"

namespace rfork::loader {

/// Ranges that are taken, sorted.
class AddressSpace {
 public:
  /// `limit`: first address past what this kernel gives to programs.
  AddressSpace(std::span<const image::Mapping> mappings, uint64_t limit);

  void take(Range range);
  bool is_free(Range range) const;

  /// A place for the hole: outside of every mapping, and where no kernel puts a freshly exec'd
  /// program's stack, mmap area, brk or position-independent text, whatever its randomization: the
  /// stub maps the hole while it still lives there. nullopt when there is none.
  std::optional<uint64_t> place_for_hole(uint64_t size) const;

  /// A place for something that stays: as near below `near` as possible, out of the way of the
  /// growth of brk and of stacks. nullopt when there is none.
  std::optional<uint64_t> place_to_stay(uint64_t size, uint64_t near, uint64_t brk) const;

 private:
  std::optional<uint64_t> lowest_fit(Range within, uint64_t size) const;

  std::vector<Range> taken_;
  std::vector<uint64_t> stacks_;  ///< starts of mappings that grow down
  uint64_t limit_;
};

}  // namespace rfork::loader
