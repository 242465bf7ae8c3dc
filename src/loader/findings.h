// What the checks of a restore find: reasons why not, and differences that are accepted.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace rfork::loader {

struct Findings {
  std::vector<Reason> reasons;
  std::vector<std::string> warnings;

  void refuse(std::string what, std::string advice = {}) {
    reasons.push_back({std::move(what), std::move(advice)});
  }
  void warn(std::string line) { warnings.push_back(std::move(line)); }
  /// Throws all reasons together, if there are any.
  void check() const {
    if (!reasons.empty()) throw Refusal(Failure::destination_refused, reasons);
  }
};

}  // namespace rfork::loader
