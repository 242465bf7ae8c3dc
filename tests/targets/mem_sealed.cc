// mseal(2): memory whose protection nobody changes any more.
#include <sys/mman.h>
#include <unistd.h>

#include "target.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 8 * target::kPage;
  char* memory = static_cast<char*>(
      target::map(3 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  target::fill(memory, 3 * size, 1);
  MUST(mprotect(memory, size, PROT_READ));
  if (syscall(SYS_mseal, memory, 2 * size, 0) != 0) target::skip("mseal: %s", std::strerror(errno));

  target::ready();
  target::wait_for_go();

  for (const size_t at : {size_t{0}, size}) {
    EXPECT(mprotect(memory + at, size, PROT_NONE) == -1 && errno == EPERM);
    EXPECT(munmap(memory + at, size) == -1 && errno == EPERM);
  }
  MUST(mprotect(memory + 2 * size, size, PROT_NONE));
  MUST(mprotect(memory + 2 * size, size, PROT_READ | PROT_WRITE));
  target::expect_filled("sealed", memory, 3 * size, 1);
  memory[size] = static_cast<char>(memory[size] + 1);
  memory[size] = static_cast<char>(memory[size] - 1);
  target::finish();
}
