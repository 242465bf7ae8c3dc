// Text and figures for a person's eye, and hexadecimal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rfork {

/// `38.2 MiB`, `512 bytes`.
std::string human_bytes(uint64_t bytes);
/// `12 ms`, `1.3 s`, `2 min 5 s`.
std::string human_duration_ns(int64_t nanoseconds);
/// Text of somebody else's for a terminal: control characters become '?'.
std::string visible(std::string_view text);
/// Lower-case, two digits a byte.
std::string to_hex(std::span<const std::byte> bytes);
/// nullopt when it is no even number of hexadecimal digits.
std::optional<std::vector<std::byte>> from_hex(std::string_view text);

}  // namespace rfork
