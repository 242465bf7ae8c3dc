// What `rfork-dump --diff` prints.
#pragma once

#include <cstdio>
#include <vector>

#include "tools/diff_fields.h"
#include "tools/diff_memory.h"

namespace rfork::tools {

struct ImageDiff {
  std::vector<Change> fields;
  std::vector<MemoryChange> mappings;
  std::vector<ObjectChange> objects;
  bool same() const { return fields.empty() && mappings.empty() && objects.empty(); }
};

/// The moment of the capture and what only holds for it are no differences.
ImageDiff compare_images(const ImageFile& before, const ImageFile& after);

/// For a person; nothing when they are the same.
void print_diff(const ImageDiff& diff, const ImageFile& before, const ImageFile& after,
                std::FILE* out);
void print_diff_json(const ImageDiff& diff, std::FILE* out);

}  // namespace rfork::tools
