// A thread in the middle of a signal handler, in one that interrupted another, and on an alternate
// stack; a thread in sigsuspend(2) with another mask; one in sigwaitinfo(2). All return to where
// they were.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

std::atomic<int> set_up{0}, outer_went_on{0}, got_usr1{0}, verified{0};
std::atomic<bool> released{false};

void wait_released() {
  while (!released) usleep(1000);
}

bool blocks(int signal) {
  sigset_t set;
  MUST(pthread_sigmask(SIG_BLOCK, nullptr, &set) == 0 ? 0 : -1);
  return sigismember(&set, signal) == 1;
}

bool on_alternate_stack() {
  stack_t now;
  MUST(sigaltstack(nullptr, &now));
  return (now.ss_flags & SS_ONSTACK) != 0;
}

void inner(int signal, siginfo_t* info, void* context) {
  EXPECT(on_alternate_stack());
  volatile double kept = info->si_value.sival_int * 0.5;
  ++set_up;
  wait_released();
  EXPECT_EQ(signal, SIGRTMIN + 2);
  EXPECT_EQ(info->si_value.sival_int, 4711);
  EXPECT(kept == 4711 * 0.5);
  EXPECT(blocks(SIGRTMIN + 2) && blocks(SIGRTMIN + 1) && blocks(SIGUSR2));
  // Where it came from was blocking the first signal only.
  EXPECT_EQ(sigismember(&static_cast<ucontext_t*>(context)->uc_sigmask, SIGUSR2), 0);
}

void outer(int) {
  volatile double kept = 1.25;
  EXPECT_EQ(pthread_sigqueue(pthread_self(), SIGRTMIN + 2, sigval{.sival_int = 4711}), 0);
  EXPECT(kept == 1.25);
  EXPECT(!blocks(SIGRTMIN + 2) && blocks(SIGRTMIN + 1));
  ++outer_went_on;
}

void* nest(void*) {
  alignas(16) static char stack[65536];
  const stack_t alternate = {stack, 0, sizeof stack};
  MUST(sigaltstack(&alternate, nullptr));
  volatile long double before = 3.5L;
  EXPECT_EQ(pthread_kill(pthread_self(), SIGRTMIN + 1), 0);
  EXPECT(before == 3.5L);
  EXPECT_EQ(outer_went_on, 1);
  EXPECT(!blocks(SIGRTMIN + 1) && !on_alternate_stack());
  ++verified;
  return nullptr;
}

void on_usr1(int) {
  ++got_usr1;
}

void* suspend(void*) {
  sigset_t none, own;
  sigfillset(&none);
  sigdelset(&none, SIGUSR1);
  sigemptyset(&own);
  sigaddset(&own, SIGUSR1);
  EXPECT_EQ(pthread_sigmask(SIG_BLOCK, &own, nullptr), 0);
  ++set_up;
  EXPECT(sigsuspend(&none) == -1 && errno == EINTR);
  EXPECT_EQ(got_usr1, 1);
  EXPECT(blocks(SIGUSR1) && !blocks(SIGHUP));
  ++verified;
  return nullptr;
}

void* await(void*) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN + 3);
  EXPECT_EQ(pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
  siginfo_t info = {};
  ++set_up;
  EXPECT_EQ(sigwaitinfo(&set, &info), SIGRTMIN + 3);
  EXPECT_EQ(info.si_value.sival_int, 42);
  ++verified;
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  struct sigaction action = {};
  action.sa_handler = outer;
  MUST(sigaction(SIGRTMIN + 1, &action, nullptr));
  action.sa_handler = on_usr1;
  MUST(sigaction(SIGUSR1, &action, nullptr));
  action.sa_sigaction = inner;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaddset(&action.sa_mask, SIGUSR2);
  MUST(sigaction(SIGRTMIN + 2, &action, nullptr));
  pthread_t nests, suspends, awaits;
  EXPECT_EQ(pthread_create(&nests, nullptr, nest, nullptr), 0);
  EXPECT_EQ(pthread_create(&suspends, nullptr, suspend, nullptr), 0);
  EXPECT_EQ(pthread_create(&awaits, nullptr, await, nullptr), 0);
  while (set_up < 3) usleep(1000);
  usleep(50'000);

  target::ready();
  target::wait_for_go();

  EXPECT_EQ(verified, 0);
  EXPECT_EQ(got_usr1, 0);
  EXPECT_EQ(pthread_kill(suspends, SIGUSR1), 0);
  EXPECT_EQ(pthread_sigqueue(awaits, SIGRTMIN + 3, sigval{.sival_int = 42}), 0);
  released = true;
  for (const pthread_t thread : {nests, suspends, awaits}) {
    EXPECT_EQ(pthread_join(thread, nullptr), 0);
  }
  EXPECT_EQ(verified, 3);
  target::finish();
}
