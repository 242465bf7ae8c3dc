// Two hundred threads: waiting, sleeping and computing; each ends afterwards, is joined
// (clear_child_tid), and new ones can be made; fork, wait and exec work.
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

constexpr int kThreads = 200;
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
bool released_locked = false;
std::atomic<bool> released{false};
std::atomic<int> starting{kThreads};

void* run(void* argument) {
  const intptr_t index = reinterpret_cast<intptr_t>(argument);
  char own[512];
  target::fill(own, sizeof own, index);
  --starting;
  if (index % 100 == 0) {
    while (!released) sched_yield();
  } else if (index % 8 == 1) {
    const timespec pause{0, 20'000'000};
    while (!released) EXPECT_EQ(nanosleep(&pause, nullptr), 0);
  } else {
    EXPECT_EQ(pthread_mutex_lock(&mutex), 0);
    while (!released_locked) EXPECT_EQ(pthread_cond_wait(&condition, &mutex), 0);
    EXPECT_EQ(pthread_mutex_unlock(&mutex), 0);
  }
  target::expect_filled("a thread's stack", own, sizeof own, index);
  return reinterpret_cast<void*>(index * 3);
}

void* add_one(void* number) {
  ++*static_cast<std::atomic<int>*>(number);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) {
    EXPECT_EQ(pthread_create(&threads[i], nullptr, run, reinterpret_cast<void*>(i)), 0);
  }
  while (starting != 0) sched_yield();
  target::ready();
  target::wait_for_go();

  released = true;
  EXPECT_EQ(pthread_mutex_lock(&mutex), 0);
  released_locked = true;
  EXPECT_EQ(pthread_mutex_unlock(&mutex), 0);
  EXPECT_EQ(pthread_cond_broadcast(&condition), 0);
  for (intptr_t i = 0; i < kThreads; ++i) {
    void* result;
    EXPECT_EQ(pthread_join(threads[i], &result), 0);
    EXPECT_EQ(reinterpret_cast<intptr_t>(result), i * 3);
  }
  std::atomic<int> number{0};
  pthread_t later[10];
  for (pthread_t& thread : later) EXPECT_EQ(pthread_create(&thread, nullptr, add_one, &number), 0);
  for (pthread_t thread : later) EXPECT_EQ(pthread_join(thread, nullptr), 0);
  EXPECT_EQ(number.load(), 10);
  const pid_t child = MUST(fork());
  if (child == 0) {
    execl("/bin/true", "true", nullptr);
    _exit(2);
  }
  int status;
  EXPECT_EQ(MUST(waitpid(child, &status, 0)), child);
  EXPECT_EQ(status, 0);
  target::finish();
}
