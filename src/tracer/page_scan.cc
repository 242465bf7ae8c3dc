#include "tracer/page_scan.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/io.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kPage = 4096;

// include/uapi/linux/fs.h of Linux 6.7, which Debian 12's headers lack.
struct PageRegion {
  uint64_t start, end, categories;
};
struct PageMapScanArgument {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
static_assert(sizeof(PageMapScanArgument) == 96);
constexpr unsigned long kPageMapScan = _IOWR('f', 16, PageMapScanArgument);
constexpr uint64_t kIsFile = 1u << 2;
constexpr uint64_t kIsPresent = 1u << 3;
constexpr uint64_t kIsSwapped = 1u << 4;
constexpr uint64_t kIsZeroPage = 1u << 5;
constexpr uint64_t kIsGuard = 1u << 8;  // Linux 6.15

// Documentation/admin-guide/mm/pagemap.rst
constexpr uint64_t kBitPresent = uint64_t{1} << 63;
constexpr uint64_t kBitSwapped = uint64_t{1} << 62;
constexpr uint64_t kBitFile = uint64_t{1} << 61;
constexpr uint64_t kBitGuard = uint64_t{1} << 58;

void append(std::vector<Range>& runs, Range run) {
  if (!runs.empty() && runs.back().end == run.start) {
    runs.back().end = run.end;
  } else {
    runs.push_back(run);
  }
}

bool all_zero(const std::byte* data, size_t size) {
  return data[0] == std::byte{0} && std::memcmp(data, data + 1, size - 1) == 0;
}

/// Gives what PAGEMAP_SCAN finds. False: the kernel doesn't know it, or what is asked of it.
template <typename Take>
bool walk(int page_map, pid_t pid, PageMapScanArgument argument, Take take) {
  std::array<PageRegion, 512> regions;
  argument.size = sizeof argument;
  argument.vec = reinterpret_cast<uint64_t>(regions.data());
  argument.vec_len = regions.size();
  while (argument.start < argument.end) {
    const int n = ::ioctl(page_map, kPageMapScan, &argument);
    if (n < 0 && (errno == ENOTTY || errno == EINVAL || errno == ENOSYS)) return false;
    if (n < 0) throw_errno("PAGEMAP_SCAN", fmt::format("of {} at {:#x}", pid, argument.start));
    for (const PageRegion& region : std::span(regions).first(static_cast<size_t>(n))) take(region);
    if (argument.walk_end <= argument.start) break;
    argument.start = argument.walk_end;
  }
  return true;
}

}  // namespace

PageScanner::PageScanner(const ProcessMemory& memory, bool use_scan_ioctl)
    : memory_(memory),
      page_map_(open_or_throw(fmt::format("/proc/{}/pagemap", memory.pid()), O_RDONLY)),
      use_scan_ioctl_(use_scan_ioctl),
      guard_category_(kIsGuard) {}

PageScanner::Found PageScanner::find(const Range& range, Want want, bool skip_zero) const {
  Found found;
  if (use_scan_ioctl_) found = scan(range, want);
  if (!use_scan_ioctl_) found = read_page_map(range, want);
  if (skip_zero) found.pages = without_zero_pages(found.pages);
  return found;
}

PageScanner::Found PageScanner::scan(const Range& range, Want want) const {
  PageMapScanArgument argument{};
  argument.start = range.start;
  argument.end = range.end;
  argument.category_anyof_mask = kIsPresent | kIsSwapped;
  if (want == Want::private_pages) {
    argument.category_mask = kIsFile | kIsZeroPage;
    argument.category_inverted = kIsFile | kIsZeroPage;
  }
  for (;;) {
    Found found;
    argument.return_mask = kIsPresent | guard_category_;
    const auto take = [&](const PageRegion& region) {
      append((region.categories & guard_category_) != 0 ? found.guards : found.pages,
             {region.start, region.end});
    };
    if (walk(page_map_.get(), memory_.pid(), argument, take)) return found;
    if (guard_category_ == 0) break;
    guard_category_ = 0;
  }
  use_scan_ioctl_ = false;
  return {};
}

std::vector<Range> PageScanner::guards(const Range& range) const {
  std::vector<Range> found;
  if (!use_scan_ioctl_ || guard_category_ == 0) return found;
  PageMapScanArgument argument{};
  argument.start = range.start;
  argument.end = range.end;
  argument.category_mask = argument.return_mask = kIsGuard;
  const auto take = [&](const PageRegion& region) { append(found, {region.start, region.end}); };
  if (!walk(page_map_.get(), memory_.pid(), argument, take)) guard_category_ = 0;
  return found;
}

PageScanner::Found PageScanner::read_page_map(const Range& range, Want want) const {
  Found found;
  std::vector<uint64_t> entries(16384);
  for (uint64_t at = range.start; at < range.end;) {
    const size_t count = std::min<size_t>(entries.size(), (range.end - at) / kPage);
    const ssize_t n =
        ::pread(page_map_.get(), entries.data(), count * 8, static_cast<off_t>(at / kPage * 8));
    if (n <= 0) throw_errno("read pagemap", fmt::format("of {} at {:#x}", memory_.pid(), at));
    for (size_t i = 0; i < static_cast<size_t>(n) / 8; ++i, at += kPage) {
      const uint64_t entry = entries[i];
      if ((entry & (kBitPresent | kBitSwapped)) == 0) continue;
      if (want == Want::private_pages && (entry & kBitFile) != 0) continue;
      append((entry & kBitGuard) != 0 ? found.guards : found.pages, {at, at + kPage});
    }
  }
  return found;
}

// To look at every page takes as long as to send it. So they are all looked at only where a page of
// zeros was seen not long ago; elsewhere one of each 32 is, at changing places. A page of
// zeros that is overlooked so is carried like any other: it costs its bytes, and nothing else.
std::vector<Range> PageScanner::without_zero_pages(const std::vector<Range>& runs) const {
  constexpr uint64_t kBlock = 32;    // pages
  constexpr uint64_t kCareful = 32;  // blocks
  constexpr size_t kGlance = 64;  // bytes of a page that tell of most pages that they aren't zero
  std::array<std::byte, kBlock * kPage> bytes;
  const auto is_zero = [&](uint64_t address) {
    for (const size_t size : {kGlance, size_t{kPage}}) {
      const std::span part = std::span(bytes).first(size);
      if (!memory_.try_read(address, part) || !all_zero(part.data(), part.size())) return false;
    }
    return true;
  };
  std::vector<Range> kept;
  uint64_t careful = kCareful;
  uint64_t probe = 0;
  for (const Range& run : runs) {
    uint64_t pages = 0;
    for (uint64_t at = run.start; at < run.end; at += pages * kPage) {
      pages = std::min(kBlock, (run.end - at) / kPage);
      probe += 5;
      if (careful == 0 && !is_zero(at + probe % pages * kPage)) {
        append(kept, {at, at + pages * kPage});
        continue;
      }
      if (careful > 0) --careful;
      const bool readable = memory_.try_read(at, std::span(bytes).first(pages * kPage));
      for (uint64_t i = 0; i < pages; ++i) {
        if (readable && all_zero(bytes.data() + i * kPage, kPage)) {
          careful = kCareful;
        } else {
          append(kept, {at + i * kPage, at + (i + 1) * kPage});
        }
      }
    }
  }
  return kept;
}

}  // namespace rfork::tracer
