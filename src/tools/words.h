// Names for bits and for values.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace rfork::tools {

struct Word {
  uint64_t value;
  const char* name;
};

/// The names of the bits that are set; what has no name as a number. Empty for none.
std::string bit_words(uint64_t flags, std::span<const Word> words, const char* between = "|");
/// The name of a value; without one the number.
std::string value_word(uint64_t value, std::span<const Word> words);

}  // namespace rfork::tools
