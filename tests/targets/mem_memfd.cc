// memfds: open and mapped, mapped only, open only; size, offset, seals, coherence of their
// mappings.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 8 * target::kPage;
  const int open_fd = MUST(memfd_create("mapped-and-open", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  MUST(ftruncate(open_fd, size + 100));  // the end is off a page
  char* shared = static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_SHARED, open_fd));
  char* copy = static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE, open_fd));
  target::fill(shared, size, 1);
  EXPECT_EQ(pwrite(open_fd, "tail", 4, size + 96), 4);
  copy[3 * target::kPage] = 'c';
  MUST(fcntl(open_fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK));
  MUST(lseek(open_fd, 1234, SEEK_SET));

  const int closed_fd = MUST(memfd_create("mapped-only", MFD_CLOEXEC));
  MUST(ftruncate(closed_fd, size));
  char* one = static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_SHARED, closed_fd));
  char* two = static_cast<char*>(target::map(size, PROT_READ, MAP_SHARED, closed_fd));
  MUST(close(closed_fd));
  target::fill(one, size, 2);

  const int read_only = MUST(memfd_create("read-only", 0));
  EXPECT_EQ(write(read_only, "still written", 13), 13);
  char* const shown =
      static_cast<char*>(target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_SHARED, read_only));
  MUST(fchmod(read_only, 0444));

  const int sealed = MUST(memfd_create("sealed", MFD_ALLOW_SEALING));
  EXPECT_EQ(write(sealed, "constant", 8), 8);
  const int all_seals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL;
  MUST(fcntl(sealed, F_ADD_SEALS, all_seals));

  target::ready();
  target::wait_for_go();

  target::expect_filled("shared", shared, size, 1);
  EXPECT_EQ(copy[3 * target::kPage], 'c');
  copy[3 * target::kPage] = shared[3 * target::kPage];
  target::expect_filled("private", copy, size, 1);
  EXPECT_EQ(lseek(open_fd, 0, SEEK_CUR), 1234);
  struct stat status;
  MUST(fstat(open_fd, &status));
  EXPECT_EQ(status.st_size, size + 100);
  char tail[4];
  EXPECT_EQ(pread(open_fd, tail, 4, size + 96), 4);
  EXPECT(std::memcmp(tail, "tail", 4) == 0);
  shared[7] = 'y';
  char byte;
  EXPECT_EQ(pread(open_fd, &byte, 1, 7), 1);
  EXPECT_EQ(byte, 'y');
  EXPECT_EQ(fcntl(open_fd, F_GET_SEALS), F_SEAL_GROW | F_SEAL_SHRINK);
  EXPECT_EQ(ftruncate(open_fd, 0), -1);
  EXPECT_EQ(fcntl(open_fd, F_GETFD), FD_CLOEXEC);

  target::expect_filled("mapped only", one, size, 2);
  one[5] = 'z';
  EXPECT_EQ(two[5], 'z');

  MUST(fstat(read_only, &status));
  EXPECT_EQ(status.st_mode & 07777, 0444);
  EXPECT_EQ(pwrite(read_only, "S", 1, 0), 1);
  EXPECT(std::memcmp(shown, "Still", 5) == 0);

  EXPECT_EQ(fcntl(sealed, F_GET_SEALS), all_seals);
  EXPECT_EQ(fcntl(sealed, F_GETFD), 0);
  EXPECT_EQ(pwrite(sealed, "x", 1, 0), -1);
  char text[8];
  EXPECT_EQ(pread(sealed, text, 8, 0), 8);
  EXPECT(std::memcmp(text, "constant", 8) == 0);
  EXPECT_EQ(lseek(sealed, 0, SEEK_CUR), 8);
  target::finish();
}
