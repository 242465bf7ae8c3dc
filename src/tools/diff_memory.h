// What differs between the memory of two images, by the contents of pages. They are read piece by
// piece from the files, so nothing but the lists of runs and mappings is kept.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "image/format.h"

namespace rfork::tools {

/// An image in a file that can be read anywhere.
struct ImageFile {
  int fd = -1;               ///< borrowed
  uint64_t data_offset = 0;  ///< in the file
  const image::Metadata& metadata;
};

struct MemoryChange {
  enum class Kind { changed, came, went };
  Kind kind = Kind::changed;
  const image::Mapping* before = nullptr;
  const image::Mapping* after = nullptr;
  uint64_t pages = 0;  ///< whose contents differ
};

struct ObjectChange {
  MemoryChange::Kind kind = MemoryChange::Kind::changed;
  const image::Object* before = nullptr;
  const image::Object* after = nullptr;
  uint64_t pages = 0;
};

/// Of the first process of each, in the order of addresses. Gives the pages that differ, even where
/// nothing else does, but no mapping that is the same.
std::vector<MemoryChange> compare_memory(const ImageFile& before, const ImageFile& after);
/// Of shared memory and files whose contents travel.
std::vector<ObjectChange> compare_objects(const ImageFile& before, const ImageFile& after);

}  // namespace rfork::tools
