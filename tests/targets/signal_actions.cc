// The action of every signal: handler, flags, mask, restorer, as the kernel has them.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "target.h"

namespace {

struct KernelAction {
  void (*handler)(int);
  uint64_t flags;
  void (*restorer)();
  uint64_t mask;
  bool operator==(const KernelAction&) const = default;
};

volatile sig_atomic_t seen;
void first(int) { seen = seen + 1; }
void second(int) { seen = seen + 100; }

KernelAction get(int signal) {
  KernelAction action;
  MUST(syscall(SYS_rt_sigaction, signal, nullptr, &action, 8));
  return action;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const int flags[] = {0,          SA_RESTART,   SA_SIGINFO,   SA_NODEFER,
                       SA_ONSTACK, SA_NOCLDSTOP, SA_NOCLDWAIT, int(SA_RESETHAND)};
  for (int signal = 1; signal <= 64; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP || signal == 32 || signal == 33) continue;
    struct sigaction action = {};
    action.sa_flags = flags[signal % 8] | flags[(signal / 8) % 8];
    action.sa_handler = signal % 5 == 0 ? SIG_IGN : signal % 2 ? first : second;
    if (signal % 7 == 0) {
      action.sa_handler = SIG_DFL;
    }
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, 1 + (signal * 5) % 31);
    sigaddset(&action.sa_mask, 64);
    MUST(sigaction(signal, &action, nullptr));
  }
  KernelAction before[65];
  for (int signal = 1; signal <= 64; ++signal) before[signal] = get(signal);

  target::ready();
  target::wait_for_go();

  for (int signal = 1; signal <= 64; ++signal) {
    if (!(get(signal) == before[signal])) {
      const KernelAction after = get(signal);
      target::fail("action of signal %d is %p %#lx %#lx, was %p %#lx %#lx", signal,
                   reinterpret_cast<void*>(after.handler), static_cast<long>(after.flags),
                   static_cast<long>(after.mask), reinterpret_cast<void*>(before[signal].handler),
                   static_cast<long>(before[signal].flags), static_cast<long>(before[signal].mask));
    }
  }
  EXPECT_EQ(raise(SIGHUP), 0);  // 1: first
  EXPECT_EQ(seen, 1);
  target::finish();
}
