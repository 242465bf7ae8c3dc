// How each thread is scheduled: policy, priority, nice value, reset on fork, CPUs, I/O priority,
// timer slack. As root the real-time policies too.
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

struct Attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

// Of ioprio_set(2): its header isn't for C++.
constexpr int kIoWho = 1, kIoRealtime = 1, kIoBestEffort = 2, kIoIdle = 3;
constexpr uint64_t kResetOnFork = 1;
constexpr uint32_t kDeadline = 6;

struct Wish {
  const char* name;
  Attributes scheduling;
  int cpu, io_priority;
  unsigned long slack;
  bool done = false;
};

std::atomic<int> set_up{0}, verified{0};

std::string now() {
  Attributes scheduling = {};
  MUST(syscall(SYS_sched_getattr, 0, &scheduling, sizeof scheduling, 0));
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  MUST(sched_getaffinity(0, sizeof cpus, &cpus));
  char text[300];
  std::snprintf(
      text, sizeof text,
      "policy %u flags %llu nice %d=%d priority %u %llu/%llu/%llu cpus %d of %d io %ld slack %d",
      scheduling.policy, (unsigned long long)scheduling.flags, scheduling.nice,
      getpriority(PRIO_PROCESS, 0), scheduling.priority, (unsigned long long)scheduling.runtime,
      (unsigned long long)scheduling.deadline, (unsigned long long)scheduling.period,
      CPU_COUNT(&cpus), CPU_ISSET(0, &cpus), syscall(SYS_ioprio_get, kIoWho, 0),
      prctl(PR_GET_TIMERSLACK));
  return text;
}

/// Whether the machine lets us.
bool apply(const Wish& wish) {
  if (wish.slack != 0) MUST(prctl(PR_SET_TIMERSLACK, wish.slack));
  if (wish.cpu >= 0) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(wish.cpu, &cpus);
    MUST(sched_setaffinity(0, sizeof cpus, &cpus));
  }
  if (wish.io_priority != 0) MUST(syscall(SYS_ioprio_set, kIoWho, 0, wish.io_priority));
  if (syscall(SYS_sched_setattr, 0, &wish.scheduling, 0) == 0) return true;
  if (wish.scheduling.policy == kDeadline && errno == EBUSY) return false;
  target::fail("%s: %s", wish.name, strerror(errno));
}

/// The policy of a child that is forked now.
int policy_of_child() {
  const pid_t child = MUST(fork());
  if (child == 0) _exit(sched_getscheduler(0) & ~0x40000000);
  int status = 0;
  MUST(waitpid(child, &status, 0));
  EXPECT(WIFEXITED(status));
  return WEXITSTATUS(status);
}

void* work(void* argument) {
  auto& wish = *static_cast<Wish*>(argument);
  wish.done = apply(wish);
  const std::string before = now();
  ++set_up;
  target::wait_for_go();
  EXPECT_TEXT(now(), before);
  if (wish.done && wish.scheduling.policy != kDeadline) {
    EXPECT_EQ(policy_of_child(),
              (wish.scheduling.flags & kResetOnFork) != 0 && wish.scheduling.priority > 0
                  ? SCHED_OTHER
                  : wish.scheduling.policy);
  }
  ++verified;
  return nullptr;
}

constexpr int io(int level, int data) {
  return level << 13 | data;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  constexpr uint32_t kSize = sizeof(Attributes);
  const bool root = geteuid() == 0;
  const int last = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)) - 1;
  Wish wishes[] = {
      {"batch", {kSize, SCHED_BATCH, kResetOnFork, 5, 0, 0, 0, 0}, last, io(kIoBestEffort, 6), 0},
      {"idle", {kSize, SCHED_IDLE, 0, 9, 0, 0, 0, 0}, 0, io(kIoIdle, 0), 123456},
      {"other", {kSize, SCHED_OTHER, 0, root ? -4 : 11, 0, 0, 0, 0}, -1, 0, 1},
      {"slice", {kSize, SCHED_OTHER, 0, 3, 0, 7'000'000, 0, 0}, -1, 0, 0},  // Linux 6.12
      {"fifo", {kSize, SCHED_FIFO, kResetOnFork, 0, 7, 0, 0, 0}, 0, io(kIoRealtime, 3), 0},
      {"rr", {kSize, SCHED_RR, 0, 0, 3, 0, 0, 0}, -1, 0, 0},
      {"deadline", {kSize, kDeadline, 0, 0, 0, 10'000'000, 50'000'000, 100'000'000}, -1, 0, 0},
  };
  const int count = root ? 7 : 4;
  for (int i = 0; i < count; ++i) {
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, nullptr, work, &wishes[i]), 0);
  }
  MUST(prctl(PR_SET_TIMERSLACK, 777));
  while (set_up < count) usleep(1000);
  const std::string before = now();

  target::ready();
  target::wait_for_go();

  EXPECT_TEXT(now(), before);
  while (verified < count) usleep(1000);
  target::finish();
}
