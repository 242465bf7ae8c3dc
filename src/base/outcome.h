// What an exception means, as data: for who goes on after it.
#pragma once

#include <exception>
#include <vector>

#include "base/error.h"

namespace rfork {

struct Outcome {
  Failure failure = Failure::internal;
  std::vector<Reason> reasons;  ///< never empty
};

/// What a main() would report of `error`.
Outcome outcome_of(const std::exception& error);

}  // namespace rfork
