// Descriptors of regular files: the offset is shared by a dup and not by a second open; flags,
// O_APPEND, close-on-exec and numbers are kept, what is not open, and what a file's mode forbids by
// now.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string file = target::path("file.data"), log = target::path("append.log");
  const int one = MUST(open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0640));
  EXPECT_EQ(write(one, "0123456789abcdef", 16), 16);
  const int shared = MUST(fcntl(one, F_DUPFD_CLOEXEC, 200));
  const int apart = MUST(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  const int high = MUST(dup2(apart, 1000));
  const int append = MUST(open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600));
  const int nonblocking = MUST(open(file.c_str(), O_RDONLY | O_NONBLOCK | O_NOATIME));
  EXPECT_EQ(write(append, "before\n", 7), 7);
  MUST(lseek(one, 4, SEEK_SET));
  MUST(lseek(apart, 10, SEEK_SET));
  const int fds[] = {one, shared, apart, high, append, nonblocking};
  int flags[6], fd_flags[6];
  for (int i = 0; i < 6; ++i) {
    flags[i] = MUST(fcntl(fds[i], F_GETFL));
    fd_flags[i] = MUST(fcntl(fds[i], F_GETFD));
  }
  const std::string locked = target::path("read-only"), hidden = target::path("hidden");
  const int writer = MUST(open(locked.c_str(), O_RDWR | O_CREAT | O_EXCL, 0444));
  EXPECT_EQ(write(writer, "data", 4), 4);
  char* const mapped =
      static_cast<char*>(target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_SHARED, writer));
  const int secret = MUST(open(hidden.c_str(), O_RDWR | O_CREAT | O_EXCL, 0));
  EXPECT_EQ(write(secret, "hidden", 6), 6);
  MUST(lseek(secret, 2, SEEK_SET));
  int open_before = 0;
  for (int fd = 0; fd < 1100; ++fd) open_before += fcntl(fd, F_GETFD) >= 0;

  target::ready();
  target::wait_for_go();

  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(fcntl(fds[i], F_GETFL), flags[i]);
    EXPECT_EQ(fcntl(fds[i], F_GETFD), fd_flags[i]);
  }
  EXPECT_EQ(lseek(shared, 0, SEEK_CUR), 4);
  char byte;
  EXPECT_EQ(read(one, &byte, 1), 1);
  EXPECT_EQ(byte, '4');
  EXPECT_EQ(read(shared, &byte, 1), 1);  // one description
  EXPECT_EQ(byte, '5');
  EXPECT_EQ(read(apart, &byte, 1), 1);
  EXPECT_EQ(byte, 'a');
  EXPECT_EQ(read(high, &byte, 1), 1);
  EXPECT_EQ(byte, 'b');
  EXPECT_EQ(write(append, "after\n", 6), 6);
  EXPECT_EQ(target::read_file(log.c_str()).rfind("before\n", 0), 0);
  EXPECT(target::read_file(log.c_str()).size() >= 13);
  struct stat status;
  MUST(fstat(writer, &status));
  EXPECT_EQ(status.st_mode & 07777, 0444);
  EXPECT_EQ(pwrite(writer, "D", 1, 0), 1);
  mapped[1] = 'A';
  EXPECT(target::read_file(locked.c_str()) == "DAta");
  MUST(fstat(secret, &status));
  EXPECT_EQ(status.st_mode & 07777, 0);
  EXPECT_EQ(lseek(secret, 0, SEEK_CUR), 2);
  char text[16];
  EXPECT_EQ(pread(secret, text, sizeof text, 0), 6);
  EXPECT_EQ(pwrite(secret, "hidden", 6, 0), 6);
  int open_after = 0;
  for (int fd = 0; fd < 1100; ++fd) open_after += fcntl(fd, F_GETFD) >= 0;
  EXPECT_EQ(open_after, open_before);
  target::finish();
}
