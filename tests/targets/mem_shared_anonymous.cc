// Shared anonymous memory stays one object behind two mappings, and is shared with a later fork. A
// mapping that was made longer than the memory is: behind its end there is nothing.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 8 * target::kPage;
  char* one =
      static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS));
  // An old size of 0 makes a second mapping of the same pages.
  char* two = static_cast<char*>(mremap(one, 0, size, MREMAP_MAYMOVE));
  if (two == MAP_FAILED) target::fail("mremap: %s", std::strerror(errno));
  target::fill(one, 4 * target::kPage, 1);  // the other half stays untouched

  char* grown = static_cast<char*>(
      target::map(2 * target::kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS));
  target::fill(grown, 2 * target::kPage, 2);
  grown = static_cast<char*>(mremap(grown, 2 * target::kPage, 4 * target::kPage, MREMAP_MAYMOVE));
  if (grown == MAP_FAILED) target::fail("mremap: %s", std::strerror(errno));

  target::ready();
  target::wait_for_go();

  target::expect_filled("first mapping", one, 4 * target::kPage, 1);
  target::expect_filled("grown mapping", grown, 2 * target::kPage, 2);
  target::expect_filled("second mapping", two, 4 * target::kPage, 1);
  target::expect_zero("untouched half", two + 4 * target::kPage, 4 * target::kPage);
  one[6 * target::kPage] = 'a';
  EXPECT_EQ(two[6 * target::kPage], 'a');
  const pid_t child = MUST(fork());
  if (child == 0) {
    two[7 * target::kPage] = 'b';
    _exit(0);
  }
  int status;
  MUST(waitpid(child, &status, 0));
  EXPECT_EQ(one[7 * target::kPage], 'b');
  target::finish();
}
