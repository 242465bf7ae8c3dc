// Descriptors with nothing behind them but the kernel's state: eventfd, signalfd, timerfd, epoll,
// and pipes and socket pairs that lead from the process to itself.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "target.h"

namespace {

constexpr int64_t kSecond = 1'000'000'000;

uint64_t read_count(int fd) {
  uint64_t value = 0;
  EXPECT_EQ(read(fd, &value, sizeof value), sizeof value);
  return value;
}

bool readable(int fd, int ms = 0) {
  pollfd one{fd, POLLIN, 0};
  return poll(&one, 1, ms) == 1 && (one.revents & POLLIN) != 0;
}

struct Events {
  int counter = MUST(eventfd(7, EFD_NONBLOCK | EFD_CLOEXEC));
  int semaphore = MUST(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
  int idle = MUST(eventfd(0, EFD_NONBLOCK));

  void check() {
    EXPECT_EQ(fcntl(counter, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(semaphore, F_GETFD), 0);
    EXPECT_EQ(read_count(counter), 7);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(read_count(semaphore), 1);
    uint64_t none;
    EXPECT_EQ(read(semaphore, &none, sizeof none), -1);
    EXPECT_EQ(errno, EAGAIN);
    EXPECT_EQ(read(idle, &none, sizeof none), -1);
  }
};

struct Pipes {
  int plain[2], packets[2], sockets[2], half[2];
  int again;

  Pipes() {
    MUST(pipe2(plain, O_NONBLOCK));
    EXPECT_EQ(MUST(fcntl(plain[0], F_SETPIPE_SZ, 16384)), 16384);
    EXPECT_EQ(write(plain[1], "in a pipe", 9), 9);
    again = MUST(dup(plain[1]));
    MUST(pipe2(packets, O_DIRECT));
    EXPECT_EQ(write(packets[1], "one", 3), 3);
    EXPECT_EQ(write(packets[1], "three", 5), 5);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets));
    EXPECT_EQ(write(sockets[0], "forth", 5), 5);
    EXPECT_EQ(write(sockets[1], "back", 4), 4);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, half));
    EXPECT_EQ(write(half[0], "last", 4), 4);
    MUST(shutdown(half[0], SHUT_WR));
  }

  void check() {
    char bytes[64];
    EXPECT_EQ(fcntl(plain[0], F_GETPIPE_SZ), 16384);
    EXPECT_EQ(fcntl(plain[0], F_GETFL), O_RDONLY | O_NONBLOCK);
    EXPECT_EQ(fcntl(plain[1], F_GETFL), O_WRONLY | O_NONBLOCK);
    EXPECT_EQ(write(again, " still", 6), 6);
    EXPECT_EQ(read(plain[0], bytes, sizeof bytes), 15);
    EXPECT_EQ(std::memcmp(bytes, "in a pipe still", 15), 0);
    EXPECT_EQ(read(plain[0], bytes, sizeof bytes), -1);
    close(again);
    close(plain[1]);
    EXPECT_EQ(read(plain[0], bytes, sizeof bytes), 0);

    EXPECT_EQ(write(packets[1], "xx", 2), 2);
    for (const int size : {3, 5, 2}) EXPECT_EQ(read(packets[0], bytes, sizeof bytes), size);

    EXPECT_EQ(read(sockets[1], bytes, sizeof bytes), 5);
    EXPECT_EQ(std::memcmp(bytes, "forth", 5), 0);
    EXPECT_EQ(read(sockets[0], bytes, sizeof bytes), 4);
    EXPECT_EQ(fcntl(sockets[0], F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(write(sockets[1], "more", 4), 4);
    EXPECT_EQ(read(sockets[0], bytes, sizeof bytes), 4);
    EXPECT_EQ(read(sockets[0], bytes, sizeof bytes), -1);

    EXPECT_EQ(read(half[1], bytes, sizeof bytes), 4);
    EXPECT_EQ(read(half[1], bytes, sizeof bytes), 0);
    EXPECT_EQ(write(half[1], "answer", 6), 6);
    EXPECT_EQ(read(half[0], bytes, sizeof bytes), 6);
  }
};

struct Timers {
  int once = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  int periodic = MUST(timerfd_create(CLOCK_BOOTTIME, 0));
  int moment = MUST(timerfd_create(CLOCK_REALTIME, 0));
  int disarmed = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  int unread = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  timespec due;

  Timers() {
    const itimerspec far{{0, 0}, {1000, 0}}, often{{0, 20'000'000}, {0, 20'000'000}};
    MUST(timerfd_settime(once, 0, &far, nullptr));
    MUST(timerfd_settime(periodic, 0, &often, nullptr));
    MUST(clock_gettime(CLOCK_REALTIME, &due));
    due.tv_sec += 900;
    const itimerspec calendar{{0, 0}, due};
    MUST(timerfd_settime(moment, TFD_TIMER_ABSTIME, &calendar, nullptr));
    while (!readable(periodic)) usleep(1000);
    const itimerspec quick{{0, 5'000'000}, {0, 5'000'000}};
    MUST(timerfd_settime(unread, 0, &quick, nullptr));
    usleep(60'000);
  }

  void check() {
    itimerspec rest{};
    MUST(timerfd_gettime(once, &rest));
    EXPECT(rest.it_value.tv_sec > 900 && rest.it_value.tv_sec < 1000);
    MUST(timerfd_gettime(moment, &rest));
    timespec now;
    MUST(clock_gettime(CLOCK_REALTIME, &now));
    const int64_t off = (now.tv_sec + rest.it_value.tv_sec - due.tv_sec) * kSecond + now.tv_nsec +
                        rest.it_value.tv_nsec - due.tv_nsec;
    EXPECT(off > -kSecond / 2 && off < kSecond / 2);
    MUST(timerfd_gettime(disarmed, &rest));
    EXPECT_EQ(rest.it_value.tv_sec + rest.it_value.tv_nsec, 0);
    EXPECT(read_count(periodic) >= 1);
    EXPECT(read_count(periodic) >= 1);  // and it goes on
    EXPECT(read_count(unread) >= 11);
    while (!readable(unread)) usleep(1000);
    const itimerspec soon{{0, 0}, {0, 10'000'000}};
    MUST(timerfd_settime(disarmed, 0, &soon, nullptr));
    EXPECT(readable(disarmed, 5000));
  }
};

struct Watches {
  int outer = MUST(epoll_create1(EPOLL_CLOEXEC)), inner = MUST(epoll_create1(0));
  int closed = MUST(epoll_create1(0)), left, full, writer;  // of what has another number by now

  Watches(const Events& events, const Pipes& pipes, int signals) {
    int first[2], second[2];
    MUST(pipe(first));
    add(closed, first[0], EPOLLIN, 6);
    left = MUST(fcntl(first[0], F_DUPFD, 300));
    writer = first[1];
    close(first[0]);
    MUST(pipe(second));
    EXPECT_EQ(second[0], first[0]);  // the same number
    add(closed, second[0], EPOLLIN, 8);
    full = MUST(dup(second[0]));
    EXPECT_EQ(write(second[1], "x", 1), 1);
    add(inner, events.counter, EPOLLIN, 0x1122334455667788);
    add(inner, events.idle, EPOLLIN | EPOLLET, 5);
    add(outer, inner, EPOLLIN, 1);
    add(outer, pipes.plain[0], EPOLLIN | EPOLLONESHOT, 2);
    add(outer, pipes.plain[1], EPOLLOUT, 3);
    add(outer, signals, EPOLLIN, 4);
  }
  static void add(int epoll, int fd, uint32_t events, uint64_t data) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
  }
  static uint64_t ready(int epoll) {
    epoll_event events[8];
    uint64_t found = 0;
    const int count = MUST(epoll_wait(epoll, events, 8, 1000));
    for (int i = 0; i < count; ++i) found |= events[i].data.u64;
    return found;
  }
  void check() {
    EXPECT_EQ(ready(inner), 0x1122334455667788);
    EXPECT_EQ(ready(outer), 1 | 2 | 3);
    EXPECT_EQ(ready(outer), 1 | 3);  // the one-shot watch has fired
    epoll_event event{};
    EXPECT_EQ(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event), -1);
    EXPECT_EQ(errno, EEXIST);
    EXPECT_EQ(ready(closed), 8);
    EXPECT_EQ(write(writer, "x", 1), 1);
    EXPECT_EQ(ready(closed), 6 | 8);
    char byte;
    EXPECT_EQ(read(full, &byte, 1), 1);
    EXPECT_EQ(ready(closed), 6);
    EXPECT_EQ(read(left, &byte, 1), 1);
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGRTMIN + 3);
  MUST(sigprocmask(SIG_BLOCK, &set, nullptr));
  const int signals = MUST(signalfd(-1, &set, SFD_NONBLOCK));
  Events events;
  Pipes pipes;
  Timers timers;
  Watches watches(events, pipes, signals);

  target::ready();
  target::wait_for_go();

  watches.check();
  events.check();
  pipes.check();
  timers.check();
  signalfd_siginfo signal{};
  EXPECT_EQ(read(signals, &signal, sizeof signal), -1);
  EXPECT_EQ(errno, EAGAIN);
  MUST(kill(getpid(), SIGRTMIN + 3));
  MUST(kill(getpid(), SIGUSR1));
  EXPECT_EQ(read(signals, &signal, sizeof signal), sizeof signal);
  EXPECT_EQ(signal.ssi_signo, SIGUSR1);
  EXPECT_EQ(read(signals, &signal, sizeof signal), sizeof signal);
  EXPECT_EQ(signal.ssi_signo, SIGRTMIN + 3);
  target::finish();
}
