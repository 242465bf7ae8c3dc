// A system call that blocks while the process is taken goes on: no EINTR that nobody caused, not
// short, and with the rest of its time, not with all of it again. One call a run, named by the
// argument.
//
// The timed ones last kSleep; a second thread says ready when kBefore of it have passed, so a call
// that started again would end at kBefore + kSleep at the earliest. The untimed ones are ended by
// that thread after go. Times are CLOCK_MONOTONIC, judged loosely.
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>

#include "target.h"

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kSleep = 4 * kSecond;
constexpr int64_t kBefore = 5 * kSecond / 2;

std::string call;
int64_t started;
pthread_t sleeper;
std::atomic<bool> entered{false}, released{false};
volatile sig_atomic_t handled;
uint32_t futex_word = 0;
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

constexpr timespec as_timespec(int64_t ns) {
  return {ns / kSecond, ns % kSecond};
}

timespec from_now(clockid_t clock, int64_t ns) {
  timespec now;
  clock_gettime(clock, &now);
  return as_timespec(now.tv_sec * kSecond + now.tv_nsec + ns);
}

void on_signal(int) {
  handled = handled + 1;
}

// Whether the thread `tid` sleeps in the kernel.
bool asleep(pid_t tid) {
  const std::string stat =
      target::read_file(("/proc/self/task/" + std::to_string(tid) + "/stat").c_str());
  return stat.compare(stat.rfind(')') + 2, 1, "S") == 0;
}

void* announce_timed(void*) {
  while (target::now_ns() < started + kBefore) usleep(1000);
  target::ready();
  return nullptr;
}

void* announce_untimed(void* tid) {
  while (!entered || !asleep(pid_t(reinterpret_cast<intptr_t>(tid)))) usleep(1000);
  target::ready();
  target::wait_for_go();
  released = true;
  if (call == "futex") {
    __atomic_store_n(&futex_word, 1, __ATOMIC_SEQ_CST);
    EXPECT_EQ(syscall(SYS_futex, &futex_word, FUTEX_WAKE, 1, nullptr, nullptr, 0), 1);
  } else {
    EXPECT_EQ(pthread_kill(sleeper, SIGUSR1), 0);
  }
  return nullptr;
}

struct Timed {
  const char* name;
  std::function<int()> run;  // gives what the call gave
  int result;
  int error;
};

const Timed timed[] = {
    {"nanosleep",
     [] {
       const timespec time = as_timespec(kSleep);
       timespec rest = {77, 77};
       return nanosleep(&time, &rest);
     },
     0, 0},
    {"clock_nanosleep",
     [] {
       const timespec time = as_timespec(kSleep);
       return clock_nanosleep(CLOCK_REALTIME, 0, &time, nullptr);
     },
     0, 0},
    {"clock_nanosleep_absolute",
     [] {
       const timespec time = from_now(CLOCK_MONOTONIC, kSleep);
       return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
     },
     0, 0},
    {"poll", [] { return poll(nullptr, 0, int(kSleep / 1'000'000)); }, 0, 0},
    {"ppoll",
     [] {
       const timespec time = as_timespec(kSleep);
       return ppoll(nullptr, 0, &time, nullptr);
     },
     0, 0},
    {"select",
     [] {
       timeval time{kSleep / kSecond, 0};
       return select(0, nullptr, nullptr, nullptr, &time);
     },
     0, 0},
    {"pselect",
     [] {
       const timespec time = as_timespec(kSleep);
       return pselect(0, nullptr, nullptr, nullptr, &time, nullptr);
     },
     0, 0},
    {"futex_timed",
     [] {
       const timespec time = as_timespec(kSleep);
       return int(syscall(SYS_futex, &futex_word, FUTEX_WAIT, 0, &time, nullptr, 0));
     },
     -1, ETIMEDOUT},
    {"cond_timedwait",
     [] {
       const timespec time = from_now(CLOCK_REALTIME, kSleep);
       EXPECT_EQ(pthread_mutex_lock(&mutex), 0);
       errno = pthread_cond_timedwait(&condition, &mutex, &time);
       return errno == 0 ? 0 : -1;
     },
     -1, ETIMEDOUT},
    {"sigtimedwait",
     [] {
       sigset_t set;
       sigemptyset(&set);
       sigaddset(&set, SIGUSR2);
       const timespec time = as_timespec(kSleep);
       return sigtimedwait(&set, nullptr, &time);
     },
     -1, EAGAIN},
};

void run_timed(const Timed& one) {
  pthread_t announcer;
  started = target::now_ns();
  EXPECT_EQ(pthread_create(&announcer, nullptr, announce_timed, nullptr), 0);
  const int result = one.run();
  const int error = errno;
  const int64_t passed = target::now_ns() - started;
  if (result != one.result) {
    target::fail("%s gave %d (%s), not %d", one.name, result, std::strerror(error), one.result);
  }
  if (one.result < 0) EXPECT_EQ(error, one.error);
  // CLOCK_REALTIME and CLOCK_MONOTONIC are disciplined apart by a hair.
  if (passed < kSleep - 20'000'000)
    target::fail("%s: short: %ld ms", one.name, long(passed / 1'000'000));
  if (passed > kBefore + kSleep - kSecond / 2) {
    target::fail("%s: %ld ms, as if it had started again", one.name, long(passed / 1'000'000));
  }
  EXPECT_EQ(pthread_join(announcer, nullptr), 0);
  target::finish();
}

int64_t thread_ns() {
  timespec time;
  MUST(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time));
  return time.tv_sec * kSecond + time.tv_nsec;
}

/// A sleep by the process's CPU time, of which another thread makes a tenth of a second pass each
/// second: only the kernel knows how much is left. It may take longer, and never less.
void run_cpu_sleep() {
  constexpr int64_t kShort = kSecond / 4;
  std::atomic<int64_t> used{0};
  std::atomic<bool> over{false};
  std::thread user([&] {
    while (!over) {
      const int64_t before = thread_ns();
      int64_t now;
      while ((now = thread_ns()) < before + 5'000'000) {
        if (now < before) break;  // another process's clock
      }
      used += 5'000'000;
      usleep(45'000);
    }
  });
  std::thread announcer([&] {
    while (used < kShort / 2) usleep(1000);
    target::ready();
  });
  const timespec time = as_timespec(kShort);
  EXPECT_EQ(clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &time, nullptr), 0);
  if (used < kShort * 9 / 10) {
    target::fail("cpu_sleep: short: %ld ms", long(used / 1'000'000));
  }
  over = true;
  user.join();
  announcer.join();
  target::finish();
}

/// Whether the kernel has the 32-bit table: a child tries getpid(2) of it.
bool has_int80() {
  const pid_t child = MUST(fork());
  if (child == 0) {
    int result = 20;
    asm volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
    _exit(result == getpid() ? 0 : 1);
  }
  int status = 0;
  MUST(waitpid(child, &status, 0));
  return status == 0;
}

/// nanosleep(2) of the 32-bit table, whose pointers and times have 32 bits. Gives what the kernel
/// gives: -errno.
int sleep_by_int80(int32_t seconds) {
  auto* const time = static_cast<int32_t*>(
      target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT));
  time[0] = seconds;
  int result = 162;
  asm volatile("int $0x80" : "+a"(result) : "b"(time), "c"(0) : "memory", "r8", "r9", "r10", "r11");
  return result;
}

void run_untimed() {
  struct sigaction action = {};
  action.sa_handler = on_signal;  // no SA_RESTART: the signal ends the call
  MUST(sigaction(SIGUSR1, &action, nullptr));
  sigset_t usr1, none, mask;
  sigemptyset(&none);
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  sleeper = pthread_self();
  pthread_t announcer;
  EXPECT_EQ(pthread_create(&announcer, nullptr, announce_untimed,
                           reinterpret_cast<void*>(intptr_t(gettid()))),
            0);
  entered = true;
  int result = -1;
  if (call == "futex") {
    result = int(syscall(SYS_futex, &futex_word, FUTEX_WAIT, 0, nullptr, nullptr, 0));
  } else if (call == "pause") {
    result = pause();
  } else if (call == "int80") {
    errno = -sleep_by_int80(600);
  } else if (call == "sigsuspend") {
    EXPECT_EQ(pthread_sigmask(SIG_BLOCK, &usr1, nullptr), 0);
    result = sigsuspend(&none);
    const int error = errno;
    EXPECT_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &mask), 0);
    EXPECT_EQ(sigismember(&mask, SIGUSR1), 1);  // the mask of before is back
    errno = error;
  } else if (call == "ppoll_forever") {
    EXPECT_EQ(pthread_sigmask(SIG_BLOCK, &usr1, nullptr), 0);
    result = ppoll(nullptr, 0, nullptr, &none);
    const int error = errno;
    EXPECT_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &mask), 0);
    EXPECT_EQ(sigismember(&mask, SIGUSR1), 1);
    errno = error;
  } else if (call == "sigwaitinfo") {
    EXPECT_EQ(pthread_sigmask(SIG_BLOCK, &usr1, nullptr), 0);
    siginfo_t info;
    EXPECT_EQ(sigwaitinfo(&usr1, &info), SIGUSR1);
    EXPECT(released);
    target::finish();
  } else {
    target::fail("no such call: %s", call.c_str());
  }
  const int error = errno;
  if (!released) {
    target::fail("%s ended by itself: %d (%s)", call.c_str(), result, std::strerror(error));
  }
  if (call == "futex") {
    EXPECT_EQ(result, 0);
  } else {
    EXPECT_EQ(result, -1);
    EXPECT_EQ(error, EINTR);
    EXPECT_EQ(handled, 1);
  }
  target::finish();
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv, 1);
  call = target::argument(0);
  for (const Timed& one : timed) {
    if (call == one.name) run_timed(one);
  }
  if (call == "cpu_sleep") run_cpu_sleep();
  if (call == "int80" && !has_int80()) target::skip("the kernel has no 32-bit calls");
  run_untimed();
}
