// Pages that were never touched stay untouched, zero pages stay zero: a large sparse mapping takes no
// more memory afterwards than before.
#include <sys/mman.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = size_t{256} << 20;
  char* sparse = static_cast<char*>(
      target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
  MUST(madvise(sparse, size, MADV_NOHUGEPAGE));
  const size_t step = 1 << 20;
  for (size_t at = 0; at < size; at += step) target::fill(sparse + at, target::kPage, at);
  std::memset(sparse + 2 * target::kPage, 0, target::kPage);      // written, with zeros
  volatile char sink = sparse[3 * target::kPage];                 // read, the shared zero page
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
  target::finish();
}
