#include "loader/memory_policies.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>

#include "image/memory_policy.h"

namespace rfork::loader {

using image::MemoryPolicy;

namespace {

constexpr uint64_t kMostNodes = 1024;
constexpr uint64_t kAllowed = 4;  // MPOL_F_MEMS_ALLOWED
using NodeMask = std::array<uint64_t, kMostNodes / 64>;

NodeMask mask_of(const MemoryPolicy& policy) {
  NodeMask mask{};
  for (const uint32_t node : policy.nodes)
    mask[node / 64 % mask.size()] |= uint64_t{1} << node % 64;
  return mask;
}

/// As the kernel counts: one more than the bits.
uint64_t size_of(const MemoryPolicy& policy) {
  return policy.nodes.empty() ? 0 : kMostNodes + 1;
}

bool use(const MemoryPolicy& policy) {
  const NodeMask mask = mask_of(policy);
  return ::syscall(SYS_set_mempolicy, policy.mode, policy.nodes.empty() ? nullptr : mask.data(),
                   size_of(policy)) == 0;
}

MemoryPolicy own_policy() {
  NodeMask mask{};
  MemoryPolicy policy;
  if (::syscall(SYS_get_mempolicy, &policy.mode, mask.data(), kMostNodes, nullptr, 0) != 0)
    return {};
  for (uint32_t node = 0; node < kMostNodes && policy.mode != 0; ++node) {
    if ((mask[node / 64] >> (node % 64) & 1) != 0) policy.nodes.push_back(node);
  }
  return policy;
}

/// Those of `policy` from which memory may come here.
std::vector<uint32_t> nodes_here(const MemoryPolicy& policy) {
  if ((policy.mode & image::kPolicyRelative) != 0) return policy.nodes;  // counted among those
  NodeMask mask{};
  ::syscall(SYS_get_mempolicy, nullptr, mask.data(), kMostNodes, nullptr, kAllowed);
  std::vector<uint32_t> nodes;
  for (const uint32_t node : policy.nodes) {
    if ((mask[node / 64 % mask.size()] >> (node % 64) & 1) != 0) nodes.push_back(node);
  }
  return nodes;
}

/// As near to `wanted` as can be had here.
MemoryPolicy fitted(const MemoryPolicy& wanted, std::set<std::string>& differences) {
  if (wanted.mode == 0) return wanted;
  MemoryPolicy here = wanted;
  here.nodes = nodes_here(wanted);
  int error = 0;
  const bool lost = here.nodes.empty() && !wanted.nodes.empty();
  if (lost || !use(here)) {
    error = lost ? 0 : errno;
    here = {};
  }
  if (here == wanted) return here;
  const std::string why = error != 0 ? fmt::format(" ({})", std::strerror(error)) : "";
  differences.insert(fmt::format("the NUMA memory policy {} is {} here{}",
                                 image::policy_words(wanted), image::policy_words(here), why));
  return here;
}

}  // namespace

MemoryPolicies::MemoryPolicies(const image::Process& process, Findings& findings) {
  const MemoryPolicy before = own_policy();
  std::set<std::string> differences;
  for (const image::Thread& thread : process.threads) {
    threads_.push_back(fitted(thread.memory_policy, differences));
  }
  for (const image::RangePolicy& range : process.memory_policies) {
    ranges_.push_back({range.range, fitted(range.policy, differences)});
  }
  use(before);
  for (const std::string& line : differences) findings.warn(line);
}

namespace {

void set_thread(PlanWriter& plan, const MemoryPolicy& policy) {
  const uint64_t mask = policy.nodes.empty() ? 0 : plan.value(mask_of(policy));
  plan.call(SYS_set_mempolicy, {static_cast<uint64_t>(policy.mode), mask, size_of(policy)},
            "set_mempolicy to " + image::policy_words(policy));
}

}  // namespace

void MemoryPolicies::add_of_leader(PlanWriter& plan) const {
  if (threads_.front().mode != 0) set_thread(plan, threads_.front());
}

void MemoryPolicies::add_of_thread(PlanWriter& plan, size_t index) const {
  if (threads_[index] != threads_.front()) set_thread(plan, threads_[index]);
}

void MemoryPolicies::add_of_memory(PlanWriter& plan) const {
  for (const auto& [range, policy] : ranges_) {
    if (policy.mode == 0) continue;
    const uint64_t mask = policy.nodes.empty() ? 0 : plan.value(mask_of(policy));
    plan.call(
        SYS_mbind,
        {range.start, range.size(), static_cast<uint64_t>(policy.mode), mask, size_of(policy), 0},
        fmt::format("mbind {:#x}-{:#x} to {}", range.start, range.end,
                    image::policy_words(policy)));
  }
}

}  // namespace rfork::loader
