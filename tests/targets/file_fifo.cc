// FIFOs that only this process has open: both ends in one description or in two, and one whose name
// is gone; with what is in them. A copy on the same host shares those with a name, as after
// fork(2), so one process looks at a time.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"

namespace {

void expect_contents(int reader, int writer, const std::string& want) {
  char bytes[64];
  const ssize_t size = read(reader, bytes, sizeof bytes);
  EXPECT_TEXT(std::string(bytes, size > 0 ? static_cast<size_t>(size) : 0), want);
  EXPECT_EQ(read(reader, bytes, sizeof bytes), -1);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(write(writer, want.data(), want.size()), want.size());  // for the next one
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string one = target::path("one"), two = target::path("two"),
                    gone = target::path("gone");
  for (const std::string& name : {one, two, gone}) MUST(mkfifo(name.c_str(), 0640));
  const int both = MUST(open(one.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  const int again = MUST(dup(both));
  const int reader = MUST(open(two.c_str(), O_RDONLY | O_NONBLOCK));
  const int writer = MUST(open(two.c_str(), O_WRONLY));
  EXPECT_EQ(MUST(fcntl(writer, F_SETPIPE_SZ, 16384)), 16384);
  const int ghost_reader = MUST(open(gone.c_str(), O_RDONLY | O_NONBLOCK));
  const int ghost_writer = MUST(open(gone.c_str(), O_WRONLY));
  MUST(fchmod(ghost_reader, 0640));
  MUST(unlink(gone.c_str()));
  EXPECT_EQ(write(both, "one", 3), 3);
  EXPECT_EQ(write(writer, "two", 3), 3);
  EXPECT_EQ(write(ghost_writer, "ghost", 5), 5);

  target::ready();
  target::wait_for_go();

  const int turn = MUST(open(target::path("turn").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  MUST(flock(turn, LOCK_EX));
  expect_contents(again, both, "one");
  expect_contents(reader, writer, "two");
  MUST(flock(turn, LOCK_UN));
  expect_contents(ghost_reader, ghost_writer, "ghost");

  EXPECT_EQ(fcntl(both, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
  EXPECT_EQ(fcntl(both, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(again, F_GETFD), 0);
  EXPECT_EQ(fcntl(reader, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(fcntl(writer, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_WRONLY);
  EXPECT_EQ(fcntl(reader, F_GETPIPE_SZ), 16384);
  struct stat of_name, of_end;
  MUST(stat(one.c_str(), &of_name));
  MUST(fstat(both, &of_end));
  EXPECT_EQ(of_end.st_ino, of_name.st_ino);
  MUST(fstat(ghost_reader, &of_end));
  EXPECT(S_ISFIFO(of_end.st_mode));
  EXPECT_EQ(of_end.st_mode & 07777, 0640);
  EXPECT(access(gone.c_str(), F_OK) != 0);
  // The end of the ghost is seen: nobody else has kept its writing end.
  close(ghost_writer);
  char bytes[64];
  EXPECT_EQ(read(ghost_reader, bytes, sizeof bytes), 5);
  EXPECT_EQ(read(ghost_reader, bytes, sizeof bytes), 0);
  target::finish();
}
