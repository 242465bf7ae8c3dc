// A process that notices any harm: threads that compute with values live in registers and check
// them, threads in short and in long system calls that must not fail, and a count in memory that
// the file FOLDER/count shows. Ends when go appears, with `ok` if nothing was ever wrong. For tests
// that do things to rfork-trace while it works on this.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

std::atomic<bool> released{false};
std::atomic<uint64_t>* count;

// A permutation of 64 bits and its inverse: any register that changes shows.
void* compute(void*) {
  uint64_t a = 1, b = 2, c = 3, d = 4;
  double x = 1.0, y = 3.0;
  while (!released) {
    uint64_t p = a, q = b, r = c, s = d;
    for (int i = 0; i < 2000; ++i) {
      p += 0x9e3779b97f4a7c15;
      q ^= p;
      r = (r << 7) | (r >> 57);
      s += q ^ r;
      x = x * y;
      x = x / y;
    }
    for (int i = 0; i < 2000; ++i) {
      s -= q ^ r;
      r = (r >> 7) | (r << 57);
      q ^= p;
      p -= 0x9e3779b97f4a7c15;
    }
    if (p != a || q != b || r != c || s != d) target::fail("a register was changed");
    if (x < 0.999 || x > 1.001) target::fail("a floating point register was changed");
    x = 1.0;
    a = a * 6364136223846793005 + 1442695040888963407;
    b += a;
    c ^= b;
    d -= c;
    count->fetch_add(1);
  }
  return nullptr;
}

int scratch;

void* call_often(void*) {
  const int fd = scratch;
  for (uint64_t round = 0; !released; ++round) {
    uint64_t back = 0;
    EXPECT_EQ(pwrite(fd, &round, sizeof round, 64), sizeof round);
    EXPECT_EQ(pread(fd, &back, sizeof back, 0), sizeof back);
    sched_yield();
    EXPECT_EQ(getpid(), getpid());
  }
  return nullptr;
}

void* sleep_often(void*) {
  const timespec pause{0, 700'000};
  while (!released) {
    const int64_t before = target::now_ns();
    EXPECT_EQ(nanosleep(&pause, nullptr), 0);
    EXPECT(target::now_ns() - before >= 700'000);
  }
  return nullptr;
}

void* wait_long(void*) {
  while (!released) EXPECT_EQ(poll(nullptr, 0, 300), 0);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const int fd = MUST(open(target::path("count").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  MUST(ftruncate(fd, target::kPage));
  static std::atomic<uint64_t> own_count{0};
  count = &own_count;
  const size_t size = 8 << 20;
  void* memory = target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  target::fill(memory, size, 5);
  pthread_t threads[5];
  scratch = MUST(open(target::path("scratch").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  void* (*const jobs[])(void*) = {compute, compute, call_often, sleep_often, wait_long};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(pthread_create(&threads[i], nullptr, jobs[i], nullptr), 0);
  target::ready();
  uint64_t shown = 0;
  while (!target::go()) {
    const timespec pause{0, 2'000'000};
    EXPECT_EQ(nanosleep(&pause, nullptr), 0);
    const uint64_t now = own_count;
    if (now == shown) continue;
    shown = now;
    EXPECT_EQ(pwrite(fd, &shown, sizeof shown, 0), sizeof shown);
  }
  released = true;
  for (pthread_t thread : threads) EXPECT_EQ(pthread_join(thread, nullptr), 0);
  target::expect_filled("memory", memory, size, 5);
  target::finish();
}
