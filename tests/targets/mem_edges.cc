// Mappings where a restorer might have wished to sit: at the lowest address, the highest, 4 GiB, around
// the program, and everywhere in between.
#include <sys/mman.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const long min_address = std::atol(target::read_file("/proc/sys/vm/mmap_min_addr").c_str());
  const uintptr_t wishes[] = {
      uintptr_t(min_address < 65536 ? 65536 : min_address),
      0x7ffffffff000 - 16 * target::kPage,  // the last of 47 bits
      0x100000000,
      0x200000000000,
      0x400000,        // where a program that isn't PIE would be
      0x70000000,
      0x10000000000,
  };
  void* got[std::size(wishes)];
  for (size_t i = 0; i < std::size(wishes); ++i) {
    got[i] = mmap(reinterpret_cast<void*>(wishes[i]), 16 * target::kPage, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (got[i] == MAP_FAILED) continue;  // taken, or below what an ordinary user may map
    target::fill(got[i], 16 * target::kPage, i + 1);
  }

  target::ready();
  target::wait_for_go();

  for (size_t i = 0; i < std::size(wishes); ++i) {
    if (got[i] == MAP_FAILED) continue;
    target::expect_filled("page at an edge", got[i], 16 * target::kPage, i + 1);
  }
  target::finish();
}
