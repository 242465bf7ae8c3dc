// Capabilities by the names of capabilities(7).
#pragma once

#include <cstdint>
#include <string>

namespace rfork::image {

/// `CAP_CHOWN CAP_KILL`, `all but CAP_SYS_RESOURCE`, `all`.
std::string capability_words(uint64_t set);

}  // namespace rfork::image
