#include "image/memory_policy.h"

#include <fmt/format.h>

#include <array>

namespace rfork::image {

namespace {

constexpr std::array kModes{
    "default", "prefer", "bind", "interleave", "local", "prefer (many)", "weighted interleave"};

std::string node_words(const std::vector<uint32_t>& nodes) {
  std::string words;
  for (size_t i = 0; i < nodes.size();) {
    size_t last = i;
    while (last + 1 < nodes.size() && nodes[last + 1] == nodes[last] + 1) ++last;
    words += fmt::format("{}{}", words.empty() ? "" : ",", nodes[i]);
    if (last > i) words += fmt::format("-{}", nodes[last]);
    i = last + 1;
  }
  return words;
}

}  // namespace

std::string policy_words(const MemoryPolicy& policy) {
  const auto mode = static_cast<size_t>(policy.mode & kPolicyModes);
  std::string words = mode < kModes.size() ? kModes[mode] : fmt::format("mode {}", mode);
  if ((policy.mode & kPolicyStatic) != 0) words += "=static";
  if ((policy.mode & kPolicyRelative) != 0) words += "=relative";
  if ((policy.mode & kPolicyBalancing) != 0) words += "=balancing";
  if (!policy.nodes.empty()) words += ":" + node_words(policy.nodes);
  return words;
}

}  // namespace rfork::image
