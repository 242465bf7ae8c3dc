// An image for a person: who, from where, how much, which threads and descriptors.
#pragma once

#include <cstdio>

#include "image/format.h"

namespace rfork::tools {

struct SummaryOptions {
  bool mappings = false;  ///< every mapping
  bool all = false;       ///< mappings, signal actions, limits, files and objects too
};

void print_summary(const image::Metadata& metadata, const SummaryOptions& options, std::FILE* out);

}  // namespace rfork::tools
