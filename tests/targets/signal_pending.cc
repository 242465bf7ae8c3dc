// Blocked signals that wait: for the process and for a thread, queued real-time ones in their
// order, each with what its sender said.
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "target.h"

namespace {

siginfo_t take(int signal) {
  const uint64_t set = uint64_t{1} << (signal - 1);
  const timespec at_once{0, 0};
  siginfo_t info = {};
  // Not glibc's sigtimedwait(), which turns SI_TKILL into SI_USER.
  if (syscall(SYS_rt_sigtimedwait, &set, &info, &at_once, 8) != signal) {
    target::fail("signal %d isn't pending: %s", signal, std::strerror(errno));
  }
  return info;
}

void expect_none() {
  sigset_t pending;
  MUST(sigpending(&pending));
  for (int signal = 1; signal <= 64; ++signal) {
    if (sigismember(&pending, signal) == 1) target::fail("signal %d is pending still", signal);
  }
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  sigset_t all;
  sigfillset(&all);
  EXPECT_EQ(pthread_sigmask(SIG_SETMASK, &all, nullptr), 0);
  const pid_t pid = getpid();
  MUST(kill(pid, SIGUSR1));
  MUST(kill(pid, SIGUSR1));  // an ordinary signal waits once
  MUST(syscall(SYS_tgkill, pid, gettid(), SIGUSR2));
  for (int i = 0; i < 20; ++i) {
    sigval value;
    value.sival_ptr = reinterpret_cast<void*>(0x1234567800000000 + i);
    MUST(sigqueue(pid, SIGRTMIN + 3, value));
  }
  int many = 0;
  while (many < 3000) {
    sigval value;
    value.sival_int = many;
    if (sigqueue(pid, SIGRTMIN + 4, value) != 0) break;  // RLIMIT_SIGPENDING
    ++many;
  }
  siginfo_t own = {};
  own.si_signo = SIGRTMIN + 2;
  own.si_code = -77;  // a code of the program's own
  own.si_pid = 4242;
  own.si_uid = 17;
  own.si_value.sival_int = 99;
  MUST(syscall(SYS_rt_tgsigqueueinfo, pid, gettid(), SIGRTMIN + 2, &own));

  target::ready();
  target::wait_for_go();

  siginfo_t info = take(SIGUSR1);
  EXPECT_EQ(info.si_code, SI_USER);
  EXPECT_EQ(info.si_pid, pid);
  EXPECT_EQ(info.si_uid, getuid());
  info = take(SIGUSR2);
  EXPECT_EQ(info.si_code, SI_TKILL);
  for (int i = 0; i < 20; ++i) {
    info = take(SIGRTMIN + 3);
    EXPECT_EQ(info.si_code, SI_QUEUE);
    EXPECT_EQ(reinterpret_cast<uint64_t>(info.si_value.sival_ptr), 0x1234567800000000 + i);
  }
  info = take(SIGRTMIN + 2);
  EXPECT_EQ(info.si_code, -77);
  EXPECT_EQ(info.si_pid, 4242);
  EXPECT_EQ(info.si_uid, 17);
  EXPECT_EQ(info.si_value.sival_int, 99);
  for (int i = 0; i < many; ++i) EXPECT_EQ(take(SIGRTMIN + 4).si_value.sival_int, i);
  expect_none();
  target::finish();
}
