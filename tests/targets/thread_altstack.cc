// Signal handlers that are running while the process is taken: one on an alternate stack, one nested in
// it on the same stack; both return through their frames to the code they interrupted.
#include <pthread.h>
#include <signal.h>

#include "target.h"

namespace {

alignas(16) char stack[65536];
int depth, deepest, order[2], returned;

bool on_stack(const void* address) {
  return address >= stack && address < stack + sizeof stack;
}

void outer(int, siginfo_t* info, void*) {
  char here;
  EXPECT(on_stack(&here));
  EXPECT_EQ(info->si_signo, SIGUSR1);
  ++depth;
  EXPECT_EQ(raise(SIGUSR2), 0);  // runs before raise returns
  --depth;
  order[returned++] = SIGUSR1;
}

void inner(int signal, siginfo_t* info, void*) {
  char here;
  EXPECT(on_stack(&here));
  deepest = depth + 1;
  stack_t now;
  MUST(sigaltstack(nullptr, &now));
  EXPECT_EQ(now.ss_flags, SS_ONSTACK);
  target::ready();
  target::wait_for_go();
  MUST(sigaltstack(nullptr, &now));
  EXPECT_EQ(now.ss_flags, SS_ONSTACK);
  EXPECT_EQ(now.ss_sp, stack);
  EXPECT_EQ(signal, SIGUSR2);
  EXPECT_EQ(info->si_signo, SIGUSR2);
  sigset_t mask;
  EXPECT_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &mask), 0);
  EXPECT_EQ(sigismember(&mask, SIGUSR1), 1);
  EXPECT_EQ(sigismember(&mask, SIGUSR2), 1);
  EXPECT_EQ(sigismember(&mask, SIGHUP), 1);
  order[returned++] = SIGUSR2;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  stack_t alt = {};
  alt.ss_sp = stack;
  alt.ss_size = sizeof stack;
  MUST(sigaltstack(&alt, nullptr));
  struct sigaction action = {};
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  action.sa_sigaction = outer;
  MUST(sigaction(SIGUSR1, &action, nullptr));
  sigaddset(&action.sa_mask, SIGHUP);
  action.sa_sigaction = inner;
  MUST(sigaction(SIGUSR2, &action, nullptr));
  EXPECT_EQ(raise(SIGUSR1), 0);

  EXPECT_EQ(deepest, 2);
  EXPECT_EQ(returned, 2);
  EXPECT_EQ(order[0], SIGUSR2);
  EXPECT_EQ(order[1], SIGUSR1);
  sigset_t mask;
  EXPECT_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &mask), 0);
  EXPECT_EQ(sigismember(&mask, SIGUSR1), 0);
  EXPECT_EQ(sigismember(&mask, SIGHUP), 0);
  stack_t now;
  MUST(sigaltstack(nullptr, &now));
  EXPECT_EQ(now.ss_flags, 0);
  target::finish();
}
