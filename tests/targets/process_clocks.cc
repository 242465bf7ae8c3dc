// The vDSO's clocks work afterwards in every thread, wherever a thread was taken, and CLOCK_MONOTONIC never
// goes back.
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

std::atomic<bool> released{false};
std::atomic<int> starting{3};

int64_t read_clock(clockid_t clock) {
  timespec now;
  MUST(clock_gettime(clock, &now));
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

// Most of its time is spent inside the vDSO.
void* run(void*) {
  --starting;
  int64_t last = 0, last_boot = 0;
  while (!released) {
    const int64_t now = read_clock(CLOCK_MONOTONIC);
    if (now < last) target::fail("CLOCK_MONOTONIC went back by %ld ns", long(last - now));
    last = now;
    const int64_t boot = read_clock(CLOCK_BOOTTIME);
    if (boot < last_boot) target::fail("CLOCK_BOOTTIME went back by %ld ns", long(last_boot - boot));
    last_boot = boot;
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  pthread_t threads[3];
  for (pthread_t& thread : threads) EXPECT_EQ(pthread_create(&thread, nullptr, run, nullptr), 0);
  while (starting != 0) sched_yield();

  target::ready();
  target::wait_for_go();

  released = true;
  for (pthread_t thread : threads) EXPECT_EQ(pthread_join(thread, nullptr), 0);
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME}) {
    timespec kernel;
    const int64_t before = read_clock(clock);
    MUST(syscall(SYS_clock_gettime, clock, &kernel));  // not through the vDSO
    const int64_t inside = kernel.tv_sec * 1'000'000'000 + kernel.tv_nsec;
    const int64_t after = read_clock(clock);
    if (inside < before || inside > after) {
      target::fail("clock %d: the vDSO and the kernel disagree: %ld %ld %ld", clock, long(before),
                   long(inside), long(after));
    }
  }
  EXPECT(time(nullptr) > 1'600'000'000);
  EXPECT(sched_getcpu() >= 0);
  target::finish();
}
