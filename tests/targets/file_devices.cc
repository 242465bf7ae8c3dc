// Character devices without state: null, zero, full, random, urandom.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const int null = MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
  const int zero = MUST(open("/dev/zero", O_RDWR));
  const int full = MUST(open("/dev/full", O_WRONLY));
  const int random = MUST(open("/dev/urandom", O_RDONLY));
  char* private_zero = static_cast<char*>(
      target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero));
  char* shared_zero = static_cast<char*>(
      target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_SHARED, zero));
  target::fill(private_zero, target::kPage, 1);
  target::fill(shared_zero, target::kPage, 2);

  target::ready();
  target::wait_for_go();

  char bytes[64];
  std::memset(bytes, 1, sizeof bytes);
  EXPECT_EQ(write(null, bytes, 64), 64);
  EXPECT_EQ(read(null, bytes, 64), 0);
  EXPECT_EQ(fcntl(null, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(read(zero, bytes, 64), 64);
  target::expect_zero("/dev/zero", bytes, 64);
  EXPECT_EQ(write(full, bytes, 1), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(read(random, bytes, 64), 64);
  struct stat status;
  MUST(fstat(random, &status));
  EXPECT(S_ISCHR(status.st_mode));
  EXPECT_EQ(status.st_rdev, 0x109);
  target::expect_filled("private /dev/zero", private_zero, target::kPage, 1);
  target::expect_filled("shared /dev/zero", shared_zero, target::kPage, 2);
  target::finish();
}
