// Locks of files are the process's own after a move: shared and exclusive, of ranges and of whole files, made with
// fcntl, flock and as locks of a description.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"

namespace {

struct flock range(short type, off_t start, off_t size) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = size;
  return lock;
}

// What another process finds: the owner of the lock that is in the way of `type`, -1 for one of a description, 0 for none.
pid_t in_the_way(const char* file, short type, off_t start, off_t size) {
  int ends[2];
  MUST(pipe(ends));
  const pid_t other = MUST(fork());
  if (other == 0) {
    struct flock lock = range(type, start, size);
    const int fd = MUST(open(file, O_RDWR));
    MUST(fcntl(fd, F_GETLK, &lock));
    const pid_t owner = lock.l_type == F_UNLCK ? 0 : lock.l_pid;
    EXPECT_EQ(write(ends[1], &owner, sizeof owner), sizeof owner);
    _exit(0);
  }
  pid_t owner = 0;
  EXPECT_EQ(read(ends[0], &owner, sizeof owner), sizeof owner);
  MUST(waitpid(other, nullptr, 0));
  close(ends[0]), close(ends[1]);
  return owner;
}

bool free_for_flock(const char* file, int operation) {
  const int fd = MUST(open(file, O_RDWR));
  const bool is_free = flock(fd, operation | LOCK_NB) == 0;
  close(fd);
  return is_free;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string file = target::path("records"), other = target::path("descriptions"),
                    exclusive = target::path("exclusive"), shared = target::path("shared");
  const auto create = [](const std::string& name) {
    return MUST(open(name.c_str(), O_RDWR | O_CREAT, 0600));
  };
  const int records = create(file), of_description = create(other);
  const int alone = create(exclusive), together = create(shared);
  const int aside = create(shared);
  struct flock locks[] = {range(F_WRLCK, 10, 10), range(F_RDLCK, 30, 5), range(F_WRLCK, 100, 0)};
  for (struct flock& lock : locks) MUST(fcntl(records, F_SETLK, &lock));
  struct flock description = range(F_WRLCK, 1, 2);
  MUST(fcntl(of_description, F_OFD_SETLK, &description));
  MUST(flock(alone, LOCK_EX));
  MUST(flock(together, LOCK_SH));

  target::ready();
  target::wait_for_go();

  const pid_t own = getpid();
  EXPECT_EQ(in_the_way(file.c_str(), F_RDLCK, 10, 10), own);
  EXPECT_EQ(in_the_way(file.c_str(), F_RDLCK, 30, 5), 0);
  EXPECT_EQ(in_the_way(file.c_str(), F_WRLCK, 34, 1), own);
  EXPECT_EQ(in_the_way(file.c_str(), F_WRLCK, 1'000'000, 1), own);
  EXPECT_EQ(in_the_way(file.c_str(), F_WRLCK, 20, 10), 0);
  EXPECT_EQ(in_the_way(other.c_str(), F_RDLCK, 2, 1), -1);
  EXPECT(!free_for_flock(exclusive.c_str(), LOCK_SH));
  EXPECT(free_for_flock(shared.c_str(), LOCK_SH));
  EXPECT(!free_for_flock(shared.c_str(), LOCK_EX));
  EXPECT_EQ(flock(aside, LOCK_EX | LOCK_NB), -1);  // another description of the same file

  // And they can be given back.
  struct flock none = range(F_UNLCK, 0, 0);
  MUST(fcntl(records, F_SETLK, &none));
  EXPECT_EQ(in_the_way(file.c_str(), F_WRLCK, 0, 0), 0);
  MUST(flock(alone, LOCK_UN));
  EXPECT(free_for_flock(exclusive.c_str(), LOCK_EX));
  target::finish();
}
