// A robust mutex whose owner ends afterwards: the next one is told so. The kernel looks for the owner's
// thread id in the mutex, so this is judged only where thread ids were kept.
#include <pthread.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

pthread_mutex_t mutex;
std::atomic<bool> locked{false}, released{false};

void* hold(void*) {
  EXPECT_EQ(pthread_mutex_lock(&mutex), 0);
  locked = true;
  while (!released) sched_yield();
  return nullptr;  // without unlocking
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&mutex, &attributes);
  pthread_t holder;
  EXPECT_EQ(pthread_create(&holder, nullptr, hold, nullptr), 0);
  while (!locked) sched_yield();
  const pid_t before = gettid();
  target::ready();
  target::wait_for_go();
  released = true;
  EXPECT_EQ(pthread_join(holder, nullptr), 0);
  if (gettid() == before) EXPECT_EQ(pthread_mutex_lock(&mutex), EOWNERDEAD);
  target::finish();
}
