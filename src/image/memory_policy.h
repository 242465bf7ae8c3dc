// The words of NUMA memory policies, as /proc/PID/numa_maps has them.
#pragma once

#include <string>

#include "image/model.h"

namespace rfork::image {

// set_mempolicy(2): the modes' numbers, and the flags above them.
inline constexpr int32_t kPolicyModes = 0xff;
inline constexpr int32_t kPolicyBalancing = 1 << 13, kPolicyRelative = 1 << 14,
                         kPolicyStatic = 1 << 15;

/// "bind:0-1", "interleave=static:0,2", "local"; "default".
std::string policy_words(const MemoryPolicy& policy);

}  // namespace rfork::image
