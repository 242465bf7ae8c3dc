// Anonymous memory is anonymous afterwards: MADV_DONTNEED gives zeros, as allocators rely on.
#include <sys/mman.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 32 * target::kPage;
  char* memory = static_cast<char*>(
      target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  char* heap = static_cast<char*>(sbrk(size + 2 * target::kPage));
  heap += target::kPage - reinterpret_cast<uintptr_t>(heap) % target::kPage;
  target::fill(memory, size, 1);
  target::fill(heap, size, 2);

  target::ready();
  target::wait_for_go();

  target::expect_filled("memory", memory, size, 1);
  target::expect_filled("heap", heap, size, 2);
  MUST(madvise(memory, size, MADV_DONTNEED));
  MUST(madvise(heap, size, MADV_DONTNEED));
  target::expect_zero("memory after MADV_DONTNEED", memory, size);
  target::expect_zero("heap after MADV_DONTNEED", heap, size);
  // Growing in place gives anonymous pages too.
  char* grown = static_cast<char*>(mremap(memory, size, 4 * size, MREMAP_MAYMOVE));
  if (grown == MAP_FAILED) target::fail("mremap: %s", std::strerror(errno));
  target::expect_zero("grown memory", grown + size, 3 * size);
  target::finish();
}
