// FS base (thread-local storage) and GS base of each thread.
#include <asm/prctl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

thread_local uint64_t own_value;
std::atomic<int> starting{2};
std::atomic<bool> released{false};

void set_up(uint64_t value, uint64_t* gs_area) {
  own_value = value;
  gs_area[1] = value + 1;
  MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, gs_area));
}

void verify(uint64_t value, const uint64_t* gs_area) {
  EXPECT_EQ(own_value, value);
  uint64_t through_gs, base;
  asm volatile("mov %%gs:8, %0" : "=r"(through_gs));
  EXPECT_EQ(through_gs, value + 1);
  MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
  EXPECT_EQ(base, reinterpret_cast<uint64_t>(gs_area));
  MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &base));
  EXPECT_EQ(base, reinterpret_cast<uint64_t>(pthread_self()));
}

void* run(void* value) {
  uint64_t area[2];
  set_up(reinterpret_cast<uint64_t>(value), area);
  --starting;
  while (!released) {
  }
  verify(reinterpret_cast<uint64_t>(value), area);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  uint64_t area[2];
  set_up(11, area);
  pthread_t threads[2];
  for (uint64_t i = 0; i < 2; ++i) {
    EXPECT_EQ(pthread_create(&threads[i], nullptr, run, reinterpret_cast<void*>(100 * (i + 1))), 0);
  }
  while (starting != 0) {
  }
  target::ready();
  target::wait_for_go();
  released = true;
  verify(11, area);
  for (pthread_t thread : threads) EXPECT_EQ(pthread_join(thread, nullptr), 0);
  target::finish();
}
