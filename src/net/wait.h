// How long to wait, and for what.
#pragma once

#include <chrono>
#include <string_view>

namespace rfork::net {

/// The bound of one operation. Every one has one.
struct Wait {
  std::chrono::milliseconds timeout;
  /// For the error: "the answer to the offer". A literal, or one that outlives the operation.
  std::string_view for_what;
};

}  // namespace rfork::net
