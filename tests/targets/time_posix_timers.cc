// Timers of timer_create(2): their ids with gaps, clocks, intervals and phases, signals with
// values, whom they signal, what has expired and was not taken, overruns; and that all of them go
// on.
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "target.h"

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr clockid_t kNoClock = -99;
std::atomic<int> notified{0}, worker_tid{0}, worker_burns{0}, worker_done{0};

struct Kind {
  const char* name;
  clockid_t clock;
  int notify, signal;
  int64_t value_ns, interval_ns;
  int id = -1;
};

timespec time_of(int64_t ns) {
  return {time_t(ns / kSecond), long(ns % kSecond)};
}
int64_t ns_of(const timespec& time) {
  return time.tv_sec * kSecond + time.tv_nsec;
}
int64_t clock_now(clockid_t clock) {
  timespec now;
  MUST(clock_gettime(clock, &now));
  return ns_of(now);
}

// The kernel's own, for its ids and for SIGEV_THREAD_ID.
int make(clockid_t clock, int notify, int signal, int value, pid_t tid = 0) {
  sigevent event = {};
  event.sigev_notify = notify;
  event.sigev_signo = signal;
  event.sigev_value.sival_ptr = reinterpret_cast<void*>(0x1234567800000000 + value);
  event._sigev_un._tid = tid;
  int id = -1;
  MUST(syscall(SYS_timer_create, clock, &event, &id));
  return id;
}

void set(int id, int flags, int64_t value_ns, int64_t interval_ns) {
  const itimerspec setting = {time_of(interval_ns), time_of(value_ns)};
  MUST(syscall(SYS_timer_settime, id, flags, &setting, nullptr));
}

itimerspec left(int id) {
  itimerspec now;
  MUST(syscall(SYS_timer_gettime, id, &now));
  return now;
}

sigset_t only(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  return set;
}

/// The next `signal` within `seconds`; si_signo is 0 when there is none.
siginfo_t take(int signal, int seconds) {
  const sigset_t set = only(signal);
  const timespec patience = {seconds, 0};
  siginfo_t info = {};
  while (sigtimedwait(&set, &info, &patience) < 0) {
    if (errno == EAGAIN) return {};
    EXPECT_EQ(errno, EINTR);
  }
  return info;
}

void expect_signal(const char* name, int signal, int id, int overrun = -1) {
  const siginfo_t info = take(signal, 20);
  if (info.si_signo != signal) target::fail("%s: no signal came", name);
  EXPECT_EQ(info.si_code, SI_TIMER);
  EXPECT_EQ(info.si_timerid, id);
  EXPECT_EQ(reinterpret_cast<uint64_t>(info.si_ptr), 0x1234567800000000 + signal);
  if (overrun >= 0) EXPECT_EQ(info.si_overrun, overrun);
}

void burn(int milliseconds) {
  const int64_t until = clock_now(CLOCK_THREAD_CPUTIME_ID) + milliseconds * 1'000'000;
  while (clock_now(CLOCK_THREAD_CPUTIME_ID) < until) {
  }
}

void on_thread(sigval value) {
  if (value.sival_int == 77) ++notified;
}

struct Worker {
  int signalled = -1;  // by SIGEV_THREAD_ID
  int own_cpu = -1;    // CLOCK_THREAD_CPUTIME_ID, said to nobody
  std::atomic<bool> ready{false};
} worker;

void* work(void*) {
  worker_tid = gettid();
  worker.signalled = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 5, SIGRTMIN + 5, gettid());
  worker.own_cpu = make(CLOCK_THREAD_CPUTIME_ID, SIGEV_NONE, 0, 0);
  set(worker.own_cpu, 0, 5000 * kSecond, 0);
  set(worker.signalled, 0, kSecond / 20, kSecond / 20);
  worker.ready = true;
  target::wait_for_go();
  worker_tid = gettid();
  while (worker_burns == 0) usleep(1000);
  burn(30);
  worker_done = 1;
  expect_signal("SIGEV_THREAD_ID", SIGRTMIN + 5, worker.signalled);
  expect_signal("SIGEV_THREAD_ID again", SIGRTMIN + 5, worker.signalled);
  worker_done = 2;
  for (;;) pause();
}

/// How much of a CPU timer the calling thread's burning takes.
int64_t taken_by_burning(int id) {
  const int64_t before = ns_of(left(id).it_value);
  burn(30);
  return before - ns_of(left(id).it_value);
}

void check_cpu_clocks(int process, int own, int prof) {
  EXPECT(ns_of(left(process).it_value) > 2500 * kSecond);
  EXPECT(ns_of(left(process).it_value) <= 3000 * kSecond);
  EXPECT(ns_of(left(own).it_value) > 3500 * kSecond && ns_of(left(own).it_value) <= 4000 * kSecond);
  EXPECT(taken_by_burning(process) >= 29'000'000);
  EXPECT(taken_by_burning(own) >= 29'000'000);
  EXPECT(taken_by_burning(worker.own_cpu) < 20'000'000);
  EXPECT(ns_of(left(worker.own_cpu).it_value) > 4500 * kSecond);
  const int64_t before = ns_of(left(worker.own_cpu).it_value);
  worker_burns = 1;
  while (worker_done == 0) usleep(1000);
  EXPECT(before - ns_of(left(worker.own_cpu).it_value) >= 29'000'000);
  expect_signal("a process's CPU time", SIGRTMIN + 9, prof);
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  sigset_t all;
  sigfillset(&all);
  MUST(sigprocmask(SIG_BLOCK, &all, nullptr));

  // Ids with a gap in front and between.
  std::vector<int> gone;
  for (int i = 0; i < 6; ++i) gone.push_back(make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0));
  Kind kinds[] = {
      {"CLOCK_REALTIME", CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 1, kSecond / 20, kSecond / 20},
      {"CLOCK_MONOTONIC", CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 2, kSecond / 20, kSecond / 10},
      {"CLOCK_BOOTTIME", CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGUSR1, kSecond / 50, kSecond / 20},
      {"quiet", CLOCK_MONOTONIC, SIGEV_NONE, 0, 7000 * kSecond, 8000 * kSecond},
      {"not armed", CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 3, 0, 0},
  };
  for (Kind& kind : kinds) {
    kind.id = make(kind.clock, kind.notify, kind.signal, kind.signal);
    set(kind.id, 0, kind.value_ns, kind.interval_ns);
    gone.push_back(make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0));
  }
  for (const int id : gone) MUST(syscall(SYS_timer_delete, id));

  pthread_t thread;
  EXPECT_EQ(pthread_create(&thread, nullptr, work, nullptr), 0);
  while (!worker.ready) usleep(1000);
  timer_t by_thread;
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD;
  event.sigev_notify_function = on_thread;
  event.sigev_value.sival_int = 77;
  MUST(timer_create(CLOCK_MONOTONIC, &event, &by_thread));
  const itimerspec often = {{0, 50'000'000}, {0, 50'000'000}};
  MUST(timer_settime(by_thread, 0, &often, nullptr));

  const int process_cpu = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_NONE, 0, 0);
  set(process_cpu, 0, 3000 * kSecond, 0);
  clockid_t own_clock = kNoClock;
  EXPECT_EQ(pthread_getcpuclockid(pthread_self(), &own_clock), 0);
  const int own_cpu = make(own_clock, SIGEV_NONE, 0, 0);
  set(own_cpu, 0, 4000 * kSecond, 0);
  const int process_burnt =
      make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 9, SIGRTMIN + 9);
  set(process_burnt, 0, kSecond / 50, kSecond / 50);

  // Expired, and nobody has looked.
  const int once = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 6, SIGRTMIN + 6);
  set(once, 0, 1, 0);
  const int hourly = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 7, SIGRTMIN + 7);
  set(hourly, 0, 1, 3600 * kSecond);
  // Expired eight times, taken once.
  const int overran = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 8, SIGRTMIN + 8);
  set(overran, TIMER_ABSTIME, clock_now(CLOCK_REALTIME) - 7 * 100 * kSecond - 50 * kSecond,
      100 * kSecond);
  expect_signal("overruns", SIGRTMIN + 8, overran, 7);

  target::ready();
  target::wait_for_go();

  for (const int id : gone) {
    itimerspec none;
    EXPECT(syscall(SYS_timer_gettime, id, &none) == -1 && errno == EINVAL);
  }
  for (const Kind& kind : kinds) {
    EXPECT_EQ(ns_of(left(kind.id).it_interval), kind.interval_ns);
    if (kind.signal == 0 || kind.interval_ns == 0) continue;
    expect_signal(kind.name, kind.signal, kind.id);
    expect_signal(kind.name, kind.signal, kind.id);
  }
  const int64_t quiet = ns_of(left(kinds[3].id).it_value);
  EXPECT(quiet > 6500 * kSecond && quiet < 7000 * kSecond);
  EXPECT_EQ(ns_of(left(kinds[4].id).it_value), 0);
  set(kinds[4].id, 0, 1, 0);
  expect_signal("not armed", SIGRTMIN + 3, kinds[4].id);

  expect_signal("expired once", SIGRTMIN + 6, once, 0);
  EXPECT_EQ(take(SIGRTMIN + 6, 0).si_signo, 0);
  EXPECT_EQ(ns_of(left(once).it_value), 0);
  expect_signal("every hour", SIGRTMIN + 7, hourly, 0);
  EXPECT_EQ(take(SIGRTMIN + 7, 0).si_signo, 0);
  EXPECT(ns_of(left(hourly).it_value) > 3000 * kSecond);
  EXPECT_EQ(syscall(SYS_timer_getoverrun, overran), 7);
  EXPECT(ns_of(left(overran).it_value) <= 50 * kSecond);

  check_cpu_clocks(process_cpu, own_cpu, process_burnt);
  while (worker_done < 2) usleep(1000);
  const int before = notified;
  while (notified < before + 2) usleep(1000);

  // Another one: a new id that works, and doesn't collide.
  const int fresh = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 10, SIGRTMIN + 10);
  for (const Kind& kind : kinds) EXPECT(kind.id != fresh);
  set(fresh, 0, 1, 0);
  expect_signal("a new one", SIGRTMIN + 10, fresh);
  for (const int id : {kinds[0].id, once, overran, worker.own_cpu, fresh}) {
    MUST(syscall(SYS_timer_delete, id));
  }
  MUST(timer_delete(by_thread));
  target::finish();
}
