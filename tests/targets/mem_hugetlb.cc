// Pages of the hugetlb pool, private and shared, where the machine has a pool.
#include <sys/mman.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 2 << 20;
  const int flags = MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
  void* own = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, -1, 0);
  if (own == MAP_FAILED) target::skip("no pool of 2 MiB pages (vm.nr_hugepages)");
  void* shared = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | flags, -1, 0);
  if (shared == MAP_FAILED) target::skip("the pool of 2 MiB pages is too small");
  target::fill(own, size, 1);
  target::fill(shared, size, 2);

  target::ready();
  target::wait_for_go();

  target::expect_filled("private", own, size, 1);
  target::expect_filled("shared", shared, size, 2);
  EXPECT_TEXT(target::smaps_field(own, "KernelPageSize"), "2048 kB");
  EXPECT_TEXT(target::smaps_field(shared, "KernelPageSize"), "2048 kB");
  target::finish();
}
