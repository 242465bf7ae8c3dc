// Signals of descriptors (O_ASYNC, F_SETOWN, F_SETOWN_EX, F_SETSIG): who gets which one stays, and
// it comes.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

std::atomic<pid_t> worker{0};
std::atomic<int> done{0};

siginfo_t take(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  const timespec patience = {20, 0};
  siginfo_t info = {};
  while (sigtimedwait(&set, &info, &patience) < 0) {
    if (errno == EAGAIN) target::fail("signal %d doesn't come", signal);
  }
  return info;
}

void listen_to(int fd, int type, pid_t id, int signal) {
  const f_owner_ex owner = {static_cast<__pid_type>(type), id};
  MUST(fcntl(fd, F_SETOWN_EX, &owner));
  if (signal != 0) MUST(fcntl(fd, F_SETSIG, signal));
  MUST(fcntl(fd, F_SETFL, MUST(fcntl(fd, F_GETFL)) | O_ASYNC | O_NONBLOCK));
}

void expect_owner(int fd, int type, pid_t id, int signal) {
  f_owner_ex owner = {};
  MUST(fcntl(fd, F_GETOWN_EX, &owner));
  EXPECT_EQ(owner.type, type);
  EXPECT_EQ(owner.pid, id);
  EXPECT_EQ(MUST(fcntl(fd, F_GETSIG)), signal);
  EXPECT((fcntl(fd, F_GETFL) & O_ASYNC) != 0);
}

int for_worker;

void* work(void*) {
  worker = gettid();
  target::wait_for_go();
  worker = gettid();
  done = 1;
  const siginfo_t info = take(SIGRTMIN + 4);
  EXPECT_EQ(info.si_fd, for_worker);
  done = 2;
  for (;;) pause();
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  sigset_t all;
  sigfillset(&all);
  MUST(sigprocmask(SIG_BLOCK, &all, nullptr));
  pthread_t thread;
  EXPECT_EQ(pthread_create(&thread, nullptr, work, nullptr), 0);
  while (worker == 0) usleep(1000);

  int ends[2], pair[2], plain[2], group[2];
  MUST(pipe(ends));
  MUST(pipe(plain));
  MUST(pipe(group));
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  for_worker = pair[0];
  const int copy = MUST(dup(ends[0]));
  listen_to(ends[0], F_OWNER_PID, getpid(), SIGRTMIN + 3);
  listen_to(pair[0], F_OWNER_TID, worker, SIGRTMIN + 4);
  listen_to(plain[0], F_OWNER_PID, getpid(), 0);
  // It has no number when its leader is of an outer pid namespace.
  const bool has_group = getpgrp() != 0;
  if (has_group) listen_to(group[0], F_OWNER_PGRP, getpgrp(), SIGRTMIN + 5);

  target::ready();
  target::wait_for_go();
  while (done == 0) usleep(1000);

  expect_owner(copy, F_OWNER_PID, getpid(), SIGRTMIN + 3);
  expect_owner(pair[0], F_OWNER_TID, worker, SIGRTMIN + 4);
  expect_owner(plain[0], F_OWNER_PID, getpid(), 0);
  EXPECT_EQ(fcntl(pair[1], F_GETOWN), 0);
  EXPECT_EQ(write(ends[1], "x", 1), 1);
  const siginfo_t info = take(SIGRTMIN + 3);
  EXPECT_EQ(info.si_fd, ends[0]);
  EXPECT((info.si_band & 1) != 0);  // POLLIN
  EXPECT_EQ(write(plain[1], "x", 1), 1);
  EXPECT_EQ(take(SIGIO).si_signo, SIGIO);
  // Not tried: others may be in the group.
  if (has_group && getpgrp() != 0) expect_owner(group[0], F_OWNER_PGRP, getpgrp(), SIGRTMIN + 5);
  EXPECT_EQ(write(pair[1], "x", 1), 1);
  while (done < 2) usleep(1000);
  target::finish();
}
