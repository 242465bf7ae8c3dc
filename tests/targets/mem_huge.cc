// Transparent huge pages: contents, advice, and a hole of small pages in the middle.
#include <sys/mman.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t huge = 2 << 20, size = 4 * huge;
  char* around = static_cast<char*>(
      target::map(size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  char* start = around + (huge - reinterpret_cast<uintptr_t>(around) % huge) % huge;
  if (madvise(start, size, MADV_HUGEPAGE) != 0) target::skip("no transparent huge pages here");
  target::fill(start, size, 1);
  MUST(mprotect(start + huge + 8 * target::kPage, target::kPage, PROT_READ));
  MUST(madvise(start + 2 * huge, 16 * target::kPage, MADV_DONTNEED));

  target::ready();
  target::wait_for_go();

  target::expect_filled("first", start, 2 * huge, 1);
  target::expect_zero("given back", start + 2 * huge, 16 * target::kPage);
  EXPECT(target::smaps_field(start, "VmFlags").find("hg") != std::string::npos);
  target::fill(start + 2 * huge, 16 * target::kPage, 2);
  target::expect_filled("first, later", start, 2 * huge, 1);
  target::finish();
}
