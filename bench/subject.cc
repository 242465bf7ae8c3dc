// The process that is measured: SIZE MiB of random data, and a loop that looks at the clock every 50 us (always
// looking would take a processor from those who copy; the plain copy has no such neighbour). It tells of
// itself through a small file that it and its copy map shared (struct Slots).
//
// The original notes the longest time between two looks: that is how long it was paused, as it felt it. The
// copy has another pid, notices that by getpid(2) at its first look, notes the time, and ends with 0 if the
// data is what it was. Times are CLOCK_REALTIME: the only clock that no time namespace shifts.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace {

/// Read by bench/run: keep the order.
struct Slots {
  std::atomic<int64_t> ready_pid;
  std::atomic<int64_t> longest_ns;  ///< of the original; bench/run sets it to 0 before each measurement
  std::atomic<int64_t> child_ns;    ///< first look of the copy
};

int64_t now() {
  timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

uint64_t next(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const int fd = open(argv[1], O_RDWR | O_CLOEXEC);
  auto* slots = static_cast<Slots*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  const size_t words = std::strtoull(argv[2], nullptr, 10) * (size_t{1} << 20) / 8;
  auto* data = static_cast<uint64_t*>(
      mmap(nullptr, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (fd < 0 || slots == MAP_FAILED || data == MAP_FAILED) {
    std::perror("subject");
    return 1;
  }
  close(fd);
  uint64_t state = 88172645463325252;
  for (size_t i = 0; i < words; ++i) data[i] = next(state);

  prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
  const pid_t own = getpid();
  slots->ready_pid = own;
  int64_t last = now();
  for (;;) {
    const int64_t time = now();
    if (syscall(SYS_getpid) != own) {
      slots->child_ns = time;
      break;
    }
    if (time - last > slots->longest_ns) slots->longest_ns = time - last;
    last = time;
    const timespec pause{0, 50'000};
    nanosleep(&pause, nullptr);
  }
  state = 88172645463325252;
  for (size_t i = 0; i < words; ++i) {
    if (data[i] != next(state)) return 1;
  }
  return 0;
}
