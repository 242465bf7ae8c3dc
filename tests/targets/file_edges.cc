// Edge-triggered watches of epoll(7): an edge that was told isn't told again, one that wasn't isn't
// lost, and new ones come.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>
#include <vector>

#include "target.h"

namespace {

using Found = std::set<uint64_t>;

/// More than the restore takes at once.
constexpr int kMany = 150;

struct Instance {
  int fd = MUST(epoll_create1(EPOLL_CLOEXEC));

  void control(int operation, int watched, uint32_t events, uint64_t data) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    MUST(epoll_ctl(fd, operation, watched, &event));
  }
  void add(int watched, uint32_t events, uint64_t data) {
    control(EPOLL_CTL_ADD, watched, events, data);
  }
  Found take() {
    Found found;
    epoll_event events[256];
    const int count = MUST(epoll_wait(fd, events, 256, 0));
    for (int i = 0; i < count; ++i) found.insert(events[i].data.u64);
    return found;
  }
};

struct Pipe {
  int out, in;
  explicit Pipe(const char* text = "") {
    int ends[2];
    MUST(pipe2(ends, O_NONBLOCK));
    out = ends[0], in = ends[1];
    say(text);
  }
  void say(const char* text) { EXPECT_EQ(write(in, text, strlen(text)), strlen(text)); }
};

/// All was told.
struct Told {
  Instance instance, outer;
  Pipe pipe{"abc"}, closed{"end"}, once{"x"}, empty;
  int counter = MUST(eventfd(3, EFD_NONBLOCK));
  int sockets[2];
  std::vector<int> many;

  Told() {
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets));
    EXPECT_EQ(write(sockets[1], "x", 1), 1);
    MUST(close(closed.in));
    instance.add(pipe.out, EPOLLIN | EPOLLET, 1);
    instance.add(counter, EPOLLIN | EPOLLET, 2);
    instance.add(sockets[0], EPOLLIN | EPOLLOUT | EPOLLET, 3);
    instance.add(closed.out, EPOLLIN | EPOLLRDHUP | EPOLLET, 4);
    instance.add(once.out, EPOLLIN | EPOLLONESHOT, 5);
    instance.add(empty.out, EPOLLIN | EPOLLET, 6);
    for (int i = 0; i < kMany; ++i) {
      many.push_back(MUST(eventfd(1, EFD_NONBLOCK)));
      instance.add(many.back(), EPOLLIN | EPOLLET, 100 + static_cast<uint64_t>(i));
    }
    outer.add(instance.fd, EPOLLIN | EPOLLET, 7);
    EXPECT_EQ(outer.take().size(), 1);
    EXPECT_EQ(instance.take().size(), 5 + kMany);
    EXPECT(instance.take().empty());
  }

  void check() {
    EXPECT(outer.take().empty());
    const Found again = instance.take();
    if (!again.empty()) target::fail("%zu edges are told again", again.size());
    pipe.say("d");
    empty.say("first");
    const uint64_t one = 1;
    EXPECT_EQ(write(counter, &one, sizeof one), sizeof one);
    EXPECT_EQ(write(sockets[1], "y", 1), 1);
    EXPECT(outer.take() == Found{7});
    EXPECT((instance.take() == Found{1, 2, 3, 6}));
    EXPECT(instance.take().empty());
    instance.control(EPOLL_CTL_MOD, once.out, EPOLLIN | EPOLLONESHOT, 5);
    EXPECT(instance.take() == Found{5});
    char bytes[16];
    EXPECT_EQ(read(pipe.out, bytes, sizeof bytes), 4);
    EXPECT_EQ(read(sockets[0], bytes, sizeof bytes), 2);
  }
};

/// One edge wasn't told: it must come, whatever else comes too.
struct Pending {
  Instance instance;
  Pipe told{"told"}, pending;

  Pending() {
    instance.add(told.out, EPOLLIN | EPOLLET, 1);
    EXPECT(instance.take() == Found{1});
    instance.add(pending.out, EPOLLIN | EPOLLET, 2);
    pending.say("pending");
  }
  void check() { EXPECT(instance.take().contains(2)); }
};

/// The room in what is full wasn't told, and is wanted.
struct Full {
  Instance instance;
  Pipe pipe;

  Full() {
    const std::vector<char> much(4096, 'f');
    for (;;) {
      if (write(pipe.in, much.data(), much.size()) < 0) break;
    }
    EXPECT_EQ(errno, EAGAIN);
    instance.add(pipe.in, EPOLLOUT | EPOLLET, 1);
    EXPECT(instance.take().empty());
  }
  void check() {
    std::vector<char> bytes(1 << 20);
    EXPECT(read(pipe.out, bytes.data(), bytes.size()) > 4096);
    EXPECT(instance.take() == Found{1});
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Told told;
  Pending pending;
  Full full;

  target::ready();
  target::wait_for_go();

  told.check();
  pending.check();
  full.check();
  target::finish();
}
