// Open files with no name left: deleted ones and O_TMPFILE; contents, offset, mode, also one that
// forbids to open them, holes, sharing.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string file = target::path("to-be-deleted");
  const int one = MUST(open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0604));
  MUST(fchmod(one, 0604));
  const int reader = MUST(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  const int both = MUST(dup(one));
  MUST(unlink(file.c_str()));
  char contents[10000];
  target::fill(contents, sizeof contents, 1);
  EXPECT_EQ(write(one, contents, sizeof contents), sizeof contents);
  EXPECT_EQ(pwrite(one, "end", 3, 64 << 20), 3);  // a hole of 64 MiB
  MUST(lseek(one, 5000, SEEK_SET));
  MUST(lseek(reader, 100, SEEK_SET));
  const int nameless = open(target::path("").c_str(), O_TMPFILE | O_RDWR, 0600);
  if (nameless >= 0) EXPECT_EQ(write(nameless, "nameless", 8), 8);
  const int empty = MUST(open(target::path("empty").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
  MUST(unlink(target::path("empty").c_str()));
  const uint32_t modes[] = {0444, 0, 04511};
  int forbidden[3];
  for (int i = 0; i < 3; ++i) {
    const std::string name = target::path("forbidden");
    forbidden[i] = MUST(open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
    EXPECT_EQ(write(forbidden[i], "forbidden", 9), 9);
    MUST(lseek(forbidden[i], 3, SEEK_SET));
    MUST(fchmod(forbidden[i], modes[i]));
    MUST(unlink(name.c_str()));
  }

  target::ready();
  target::wait_for_go();

  if (access(file.c_str(), F_OK) == 0) target::fail("%s has its name again", file.c_str());
  char now[10000];
  EXPECT_EQ(pread(one, now, sizeof now, 0), sizeof now);
  EXPECT(std::memcmp(now, contents, sizeof now) == 0);
  struct stat status;
  MUST(fstat(one, &status));
  EXPECT_EQ(status.st_size, (64 << 20) + 3);
  EXPECT_EQ(status.st_nlink, 0);
  EXPECT_EQ(status.st_mode & 07777, 0604);
  EXPECT_EQ(lseek(one, 0, SEEK_CUR), 5000);
  EXPECT_EQ(read(both, now, 100), 100);
  EXPECT(std::memcmp(now, contents + 5000, 100) == 0);
  EXPECT_EQ(lseek(one, 0, SEEK_CUR), 5100);
  EXPECT_EQ(lseek(reader, 0, SEEK_CUR), 100);
  EXPECT_EQ(fcntl(reader, F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(write(one, "changed", 7), 7);
  EXPECT_EQ(pread(reader, now, 7, 5100), 7);  // the same file
  EXPECT(std::memcmp(now, "changed", 7) == 0);
  if (nameless >= 0) {
    EXPECT_EQ(pread(nameless, now, 20, 0), 8);
    EXPECT(std::memcmp(now, "nameless", 8) == 0);
    EXPECT_EQ(lseek(nameless, 0, SEEK_CUR), 8);
  }
  for (int i = 0; i < 3; ++i) {
    MUST(fstat(forbidden[i], &status));
    EXPECT_EQ(status.st_mode & 07777, modes[i]);
    EXPECT_EQ(lseek(forbidden[i], 0, SEEK_CUR), 3);
    EXPECT_EQ(pwrite(forbidden[i], "F", 1, 0), 1);
    EXPECT_EQ(pread(forbidden[i], now, 20, 0), 9);
    EXPECT(std::memcmp(now, "Forbidden", 9) == 0);
  }
  MUST(fstat(empty, &status));
  EXPECT_EQ(status.st_size, 0);
  target::finish();
}
