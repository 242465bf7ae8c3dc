// What the kernel keeps for each thread: name, signal mask, alternate stack, nice value, robust list.
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

constexpr int kThreads = 5;
std::atomic<int> starting{kThreads - 1};
std::atomic<bool> released{false};
char stacks[kThreads][16384];

struct State {
  char name[16];
  uint64_t mask;
  stack_t alt;
  int nice;
  void* robust;
  size_t robust_size;
};

State look() {
  State state = {};
  MUST(prctl(PR_GET_NAME, state.name));
  MUST(syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &state.mask, 8));
  MUST(sigaltstack(nullptr, &state.alt));
  state.nice = getpriority(PRIO_PROCESS, 0);
  MUST(syscall(SYS_get_robust_list, 0, &state.robust, &state.robust_size));
  return state;
}

State set_up(int index) {
  char name[16];
  std::snprintf(name, sizeof name, "th/read (%d) x", index);
  MUST(prctl(PR_SET_NAME, name));
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  sigaddset(&mask, SIGRTMIN + 1 + index);
  sigaddset(&mask, SIGRTMAX);
  EXPECT_EQ(pthread_sigmask(SIG_SETMASK, &mask, nullptr), 0);
  if (index != 1) {  // one thread has none
    stack_t alt = {};
    alt.ss_sp = stacks[index];
    alt.ss_size = sizeof stacks[index] - 16 * index;
    alt.ss_flags = index == 2 ? int(1u << 31) : 0;  // SS_AUTODISARM
    MUST(sigaltstack(&alt, nullptr));
  }
  MUST(setpriority(PRIO_PROCESS, 0, index));
  return look();
}

void verify(int index, const State& before) {
  const State after = look();
  if (std::strcmp(after.name, before.name) != 0) {
    target::fail("thread %d is called %s, not %s", index, after.name, before.name);
  }
  EXPECT_EQ(after.mask, before.mask);
  EXPECT_EQ(after.alt.ss_flags, before.alt.ss_flags);
  EXPECT_EQ(after.alt.ss_sp, before.alt.ss_sp);
  EXPECT_EQ(after.alt.ss_size, before.alt.ss_size);
  EXPECT_EQ(after.nice, before.nice);
  EXPECT_EQ(after.robust, before.robust);
  EXPECT_EQ(after.robust_size, before.robust_size);
}

void* run(void* argument) {
  const int index = int(reinterpret_cast<intptr_t>(argument));
  const State before = set_up(index);
  --starting;
  while (!released) sched_yield();
  verify(index, before);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  pthread_t threads[kThreads];
  for (intptr_t i = 1; i < kThreads; ++i) {
    EXPECT_EQ(pthread_create(&threads[i], nullptr, run, reinterpret_cast<void*>(i)), 0);
  }
  const State before = set_up(0);
  while (starting != 0) sched_yield();
  target::ready();
  target::wait_for_go();
  released = true;
  verify(0, before);
  for (int i = 1; i < kThreads; ++i) EXPECT_EQ(pthread_join(threads[i], nullptr), 0);
  target::finish();
}
