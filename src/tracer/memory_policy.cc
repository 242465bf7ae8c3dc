#include "tracer/memory_policy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "base/io.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kOfAddress = 2;     // MPOL_F_ADDR
constexpr uint64_t kMostNodes = 1024;  // MAX_NUMNODES of the largest kernels

struct Answer {
  int32_t mode = 0;
  int32_t unused = 0;
  std::array<uint64_t, kMostNodes / 64> nodes{};
};
static_assert(sizeof(Answer) <= RemoteSyscalls::kScratchSize);

/// nullopt: the kernel has no NUMA, or forbids to ask.
std::optional<image::MemoryPolicy> ask(RemoteSyscalls& calls, const ProcessMemory& memory,
                                       uint64_t address, uint64_t flags) {
  calls.prepare();
  const uint64_t nodes = calls.scratch() + offsetof(Answer, nodes);
  if (calls.call(SYS_get_mempolicy, {calls.scratch(), nodes, kMostNodes, address, flags}) != 0)
    return std::nullopt;
  image::MemoryPolicy policy;
  const auto answer = memory.read_value<Answer>(calls.scratch());
  policy.mode = answer.mode;
  if (policy.mode == 0) return policy;
  for (uint32_t node = 0; node < kMostNodes; ++node) {
    if ((answer.nodes[node / 64] >> (node % 64) & 1) != 0) policy.nodes.push_back(node);
  }
  return policy;
}

/// Where mappings start that have a policy, or whose thread has one. The kernel walks all pages to
/// tell that, so it is for who has too many mappings to be asked for each.
std::vector<uint64_t> starts_with_policy(pid_t pid) {
  std::vector<uint64_t> starts;
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/numa_maps", pid));
  if (!text) return starts;  // a kernel without NUMA
  for (const std::string_view line : split(*text, '\n')) {
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || line.substr(space + 1).starts_with("default")) continue;
    uint64_t start = 0;
    std::from_chars(line.data(), line.data() + space, start, 16);
    starts.push_back(start);
  }
  return starts;
}

}  // namespace

image::MemoryPolicy ask_thread_policy(RemoteSyscalls& calls, const ProcessMemory& memory) {
  return ask(calls, memory, 0, 0).value_or(image::MemoryPolicy{});
}

std::vector<image::RangePolicy> ask_range_policies(RemoteSyscalls& calls,
                                                   const ProcessMemory& memory,
                                                   const std::vector<Range>& ranges) {
  constexpr size_t kFew = 500;
  std::vector<Range> candidates = ranges;
  if (ranges.size() > kFew) {
    const std::vector<uint64_t> starts = starts_with_policy(memory.pid());
    std::erase_if(candidates, [&](const Range& range) {
      return !std::ranges::binary_search(starts, range.start);
    });
  }
  std::vector<image::RangePolicy> policies;
  for (const Range& range : candidates) {
    auto policy = ask(calls, memory, range.start, kOfAddress);
    if (!policy) break;
    if (policy->mode != 0) policies.push_back({range, std::move(*policy)});
  }
  return policies;
}

}  // namespace rfork::tracer
