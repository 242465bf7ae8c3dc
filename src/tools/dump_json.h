// An image as one line of JSON: every field of model.h under its own name.
#pragma once

#include <cstdio>

#include "image/format.h"

namespace rfork::tools {

/// Written element by element: a JSON value of all mappings of a large process would take far more
/// memory than the process's image has.
void print_json(const image::Metadata& metadata, bool verified, std::FILE* out);

}  // namespace rfork::tools
