// Shared mappings of a file stay mappings of that file: coherent with it and with one another; one that
// was opened read-only can't become writable.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  // Two processes may verify at once after a copy: the last page is for writing, the others are checked.
  const size_t checked = 8 * target::kPage, size = checked + target::kPage;
  const std::string file = target::path("shared.data");
  const int fd = MUST(open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  MUST(ftruncate(fd, size));
  const int read_only = MUST(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  char* one = static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd));
  char* two = static_cast<char*>(
      target::map(2 * target::kPage, PROT_READ, MAP_SHARED, fd, checked - target::kPage));
  char* locked = static_cast<char*>(target::map(size, PROT_READ, MAP_SHARED, read_only));
  MUST(close(fd));
  MUST(close(read_only));
  target::fill(one, checked, 1);

  target::ready();
  target::wait_for_go();

  target::expect_filled("first mapping", one, checked, 1);
  if (std::memcmp(two, one + checked - target::kPage, target::kPage) != 0) {
    target::fail("the mappings differ");
  }
  std::memset(one + checked, 'x', 100);
  if (std::memcmp(two + target::kPage, one + checked, 100) != 0) {
    target::fail("a write through one mapping isn't seen through the other");
  }
  if (std::memcmp(locked, one, checked) != 0) target::fail("the read-only mapping differs");
  const std::string contents = target::read_file(file.c_str());
  if (std::memcmp(contents.data(), one, checked) != 0) target::fail("the file differs");
  MUST(msync(one, size, MS_SYNC));
  MUST(mprotect(two, 2 * target::kPage, PROT_READ | PROT_WRITE));
  if (mprotect(locked, size, PROT_READ | PROT_WRITE) == 0) {
    target::fail("a shared mapping of a file that was opened read-only could be made writable");
  }
  EXPECT_EQ(errno, EACCES);
  target::finish();
}
