// A private mapping of a file: changed pages stay changed, clean ones are still the file's, the file is
// untouched, and MADV_DONTNEED gives the file's bytes again.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t pages = 16, size = pages * target::kPage;
  const std::string file = target::path("private.data");
  const int fd = MUST(open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  std::string contents(size, 0);
  target::fill(contents.data(), size, 1);
  EXPECT_EQ(write(fd, contents.data(), size), size);
  char* whole = static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd));
  char* part = static_cast<char*>(
      target::map(4 * target::kPage, PROT_READ, MAP_PRIVATE, fd, 8 * target::kPage));
  MUST(close(fd));
  for (size_t page = 1; page < pages; page += 4) {
    target::fill(whole + page * target::kPage, target::kPage, 100 + page);
  }

  target::ready();
  target::wait_for_go();

  for (size_t page = 0; page < pages; ++page) {
    const char* at = whole + page * target::kPage;
    if (page % 4 == 1) {
      target::expect_filled("changed page", at, target::kPage, 100 + page);
    } else if (std::memcmp(at, &contents[page * target::kPage], target::kPage) != 0) {
      target::fail("clean page %zu differs from the file", page);
    }
  }
  if (std::memcmp(part, &contents[8 * target::kPage], 4 * target::kPage) != 0) {
    target::fail("read-only part differs from the file");
  }
  if (target::read_file(file.c_str()) != contents) target::fail("the file was changed");
  MUST(madvise(whole, size, MADV_DONTNEED));
  if (std::memcmp(whole, contents.data(), size) != 0) {
    target::fail("MADV_DONTNEED didn't give the file's bytes");
  }
  const std::string maps = target::read_file("/proc/self/maps");
  if (maps.find(file) == std::string::npos) target::fail("maps doesn't name %s", file.c_str());
  target::finish();
}
