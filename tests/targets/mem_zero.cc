// Pages that were never touched stay untouched, zero pages stay zero: a large sparse mapping takes
// no more memory afterwards than before, be it private or shared.
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "target.h"

namespace {

constexpr size_t kShared = size_t{1} << 30;

/// Of a shared mapping, whoever has made them.
size_t pages_there(void* start) {
  std::vector<unsigned char> there(kShared / target::kPage);
  MUST(mincore(start, kShared, there.data()));
  return size_t(
      std::count_if(there.begin(), there.end(), [](unsigned char one) { return one & 1; }));
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  char* shared = static_cast<char*>(
      target::map(kShared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE));
  for (size_t at = 0; at < kShared; at += kShared / 4) target::fill(shared + at, target::kPage, at);
  const size_t shared_before = pages_there(shared);
  const size_t size = size_t{256} << 20;
  char* sparse = static_cast<char*>(
      target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
  MUST(madvise(sparse, size, MADV_NOHUGEPAGE));
  const size_t step = 1 << 20;
  for (size_t at = 0; at < size; at += step) target::fill(sparse + at, target::kPage, at);
  std::memset(sparse + 2 * target::kPage, 0, target::kPage);  // written, with zeros
  volatile char sink = sparse[3 * target::kPage];             // read, the shared zero page
  (void)sink;
  const long rss_before = std::atol(target::smaps_field(sparse, "Rss").c_str());

  target::ready();
  target::wait_for_go();

  const long rss_after = std::atol(target::smaps_field(sparse, "Rss").c_str());
  if (rss_after > rss_before) target::fail("resident %ld KiB, was %ld", rss_after, rss_before);
  for (size_t at = 0; at < size; at += step) {
    target::expect_filled("touched page", sparse + at, target::kPage, at);
    target::expect_zero("untouched page", sparse + at + target::kPage, 3 * target::kPage);
  }
  const size_t shared_after = pages_there(shared);
  if (shared_after > shared_before)
    target::fail("%zu shared pages, were %zu", shared_after, shared_before);
  for (size_t at = 0; at < kShared; at += kShared / 4) {
    target::expect_filled("shared page", shared + at, target::kPage, at);
  }
  target::finish();
}
