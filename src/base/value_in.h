#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

namespace rfork {

/// The struct that `bytes` start with; what they lack of it is zero. They may be none, which
/// memcpy(3) mustn't be given.
template <typename T>
T value_in(std::span<const std::byte> bytes) {
  T value{};
  std::ranges::copy(bytes.first(std::min(bytes.size(), sizeof value)),
                    reinterpret_cast<std::byte*>(&value));
  return value;
}

}  // namespace rfork
