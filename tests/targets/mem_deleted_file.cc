// Mappings of a file with no name left: shared ones stay coherent, private ones keep their changes.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 8 * target::kPage;
  const std::string file = target::path("deleted.data");
  const int fd = MUST(open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  MUST(ftruncate(fd, size));
  char* shared = static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd));
  target::fill(shared, size, 1);
  char* again = static_cast<char*>(target::map(size, PROT_READ, MAP_SHARED, fd));
  char* own = static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd));
  MUST(close(fd));
  MUST(unlink(file.c_str()));
  target::fill(own + target::kPage, target::kPage, 2);

  target::ready();
  target::wait_for_go();

  target::expect_filled("shared", shared, size, 1);
  target::expect_filled("private, changed", own + target::kPage, target::kPage, 2);
  if (std::memcmp(own + 2 * target::kPage, shared + 2 * target::kPage, target::kPage) != 0) {
    target::fail("a clean page of the private mapping differs");
  }
  shared[100] = 'q';
  EXPECT_EQ(again[100], 'q');
  if (access(file.c_str(), F_OK) == 0) target::fail("the deleted file has its name again");
  target::finish();
}
