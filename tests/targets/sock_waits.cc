// Calls that wait on a socket with a time-out (SO_RCVTIMEO, SO_SNDTIMEO): the kernel interrupts them for
// a stop with EINTR, whether or not there is a signal; the program must not see it. A thread each; after
// go each gets what it waits for.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "target.h"

namespace {

struct Waiter {
  std::string name;
  std::function<long(int)> call;  // with the socket; gives what it gave
  bool sends;                     // else it receives
  int ends[2] = {-1, -1};
  pid_t tid = 0;
  long result = 0;
  int error = 0;
  std::thread thread;
};

char byte[1] = {'x'};
thread_local char got[1];

iovec part(void* data) { return {data, 1}; }

void wait_at_most(int fd, int seconds) {
  const timeval time{seconds, 0};
  MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
  MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time));
}

std::vector<Waiter> waiters() {
  std::vector<Waiter> all;
  const auto receives = [&](const char* name, std::function<long(int)> call) {
    all.push_back({name, std::move(call), false});
  };
  const auto sends = [&](const char* name, std::function<long(int)> call) {
    all.push_back({name, std::move(call), true});
  };
  receives("read", [](int fd) { return read(fd, got, 1); });
  receives("readv", [](int fd) {
    const iovec one = part(got);
    return readv(fd, &one, 1);
  });
  receives("preadv2", [](int fd) {
    const iovec one = part(got);
    return preadv2(fd, &one, 1, -1, 0);
  });
  receives("recvfrom", [](int fd) { return recvfrom(fd, got, 1, 0, nullptr, nullptr); });
  receives("recvmsg", [](int fd) {
    iovec one = part(got);
    msghdr message = {};
    message.msg_iov = &one, message.msg_iovlen = 1;
    return recvmsg(fd, &message, 0);
  });
  receives("recvmmsg", [](int fd) {
    iovec one = part(got);
    mmsghdr message = {};
    message.msg_hdr.msg_iov = &one, message.msg_hdr.msg_iovlen = 1;
    return long(recvmmsg(fd, &message, 1, 0, nullptr));
  });
  sends("write", [](int fd) { return write(fd, byte, 1); });
  sends("writev", [](int fd) {
    const iovec one = part(byte);
    return writev(fd, &one, 1);
  });
  sends("pwritev2", [](int fd) {
    const iovec one = part(byte);
    return pwritev2(fd, &one, 1, -1, 0);
  });
  sends("sendto", [](int fd) { return sendto(fd, byte, 1, 0, nullptr, 0); });
  sends("sendmsg", [](int fd) {
    iovec one = part(byte);
    msghdr message = {};
    message.msg_iov = &one, message.msg_iovlen = 1;
    return sendmsg(fd, &message, 0);
  });
  sends("sendmmsg", [](int fd) {
    iovec one = part(byte);
    mmsghdr message = {};
    message.msg_hdr.msg_iov = &one, message.msg_hdr.msg_iovlen = 1;
    return long(sendmmsg(fd, &message, 1, 0));
  });
  return all;
}

void fill(int fd) {
  char block[4096] = {};
  while (send(fd, block, sizeof block, MSG_DONTWAIT) > 0) {
  }
  while (send(fd, block, 1, MSG_DONTWAIT) > 0) {
  }
}

bool asleep(pid_t tid) {
  const std::string stat = target::read_file(("/proc/self/task/" + std::to_string(tid) + "/stat").c_str());
  return stat.compare(stat.rfind(')') + 2, 1, "S") == 0;
}

/// What it waits for.
void serve(const Waiter& waiter) {
  if (!waiter.sends) {
    EXPECT_EQ(send(waiter.ends[1], byte, 1, 0), 1);
    return;
  }
  char block[65536];
  while (recv(waiter.ends[1], block, sizeof block, MSG_DONTWAIT) > 0) {
  }
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  std::vector<Waiter> all = waiters();
  for (Waiter& waiter : all) {
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, waiter.ends));
    wait_at_most(waiter.ends[0], 100);
    if (waiter.sends) fill(waiter.ends[0]);
    waiter.thread = std::thread([&waiter] {
      __atomic_store_n(&waiter.tid, gettid(), __ATOMIC_SEQ_CST);
      waiter.result = waiter.call(waiter.ends[0]);
      waiter.error = errno;
    });
  }
  for (Waiter& waiter : all) {
    while (__atomic_load_n(&waiter.tid, __ATOMIC_SEQ_CST) == 0 || !asleep(waiter.tid)) usleep(1000);
  }
  target::ready();
  target::wait_for_go();
  for (Waiter& waiter : all) {
    serve(waiter);
    waiter.thread.join();
    if (waiter.result != 1) {
      target::fail("%s gave %ld (%s)", waiter.name.c_str(), waiter.result, std::strerror(waiter.error));
    }
  }
  target::finish();
}
