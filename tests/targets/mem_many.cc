// Thousands of mappings of one page each.
#include <sys/mman.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t count = 6000;
  char* start = static_cast<char*>(
      target::map(count * target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  for (size_t i = 0; i < count; ++i) {
    target::fill(start + i * target::kPage, 64, i);
    if (i % 2 == 1) MUST(mprotect(start + i * target::kPage, target::kPage, PROT_READ));
  }

  target::ready();
  target::wait_for_go();

  for (size_t i = 0; i < count; ++i) {
    target::expect_filled("page", start + i * target::kPage, 64, i);
    target::expect_zero("rest of page", start + i * target::kPage + 64, target::kPage - 64);
  }
  size_t lines = 0;
  for (const char c : target::read_file("/proc/self/maps")) lines += c == '\n';
  if (lines < count) target::fail("%zu mappings, not %zu", lines, count);
  target::finish();
}
