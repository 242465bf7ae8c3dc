#include "tracer/resident_pages.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "base/io.h"
#include "tracer/inventory.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kPage = 4096;

bool host_swaps() {
  const auto text = try_read_file_at(AT_FDCWD, "/proc/swaps");
  return !text || std::ranges::count(*text, '\n') > 1;
}

}  // namespace

// mincore(2) tells of a page of shared memory whether it is in memory, whoever has put it there.
std::vector<Range> ResidentPages::within(const Range& addresses) const {
  std::vector<Range> runs;
  std::array<std::byte, RemoteSyscalls::kScratchSize> there;
  calls_.prepare();
  for (uint64_t at = addresses.start; at < addresses.end;) {
    const uint64_t pages = std::min<uint64_t>(there.size(), (addresses.end - at) / kPage);
    if (calls_.call(SYS_mincore, {at, pages * kPage, calls_.scratch()}) != 0) return {addresses};
    memory_.read(calls_.scratch(), std::span(there).first(pages));
    for (uint64_t i = 0; i < pages; ++i, at += kPage) {
      if ((there[i] & std::byte{1}) == std::byte{0}) continue;
      if (!runs.empty() && runs.back().end == at) {
        runs.back().end = at + kPage;
      } else {
        runs.push_back({at, at + kPage});
      }
    }
  }
  const bool all = runs.size() == 1 && runs[0] == addresses;
  return all || !may_be_swapped(addresses) ? runs : std::vector{addresses};
}

bool ResidentPages::may_be_swapped(const Range& addresses) const {
  if (!host_swaps()) return false;
  return std::ranges::any_of(read_smaps(memory_.pid()), [&](const SmapsEntry& entry) {
    return entry.range.overlaps(addresses) && entry.swapped != 0;
  });
}

}  // namespace rfork::tracer
