// Unix sockets that are connected to each other, of all types: message boundaries, half-closed
// states, ends whose peer is gone, credentials, and what the ends are to each other afterwards.
#include <fcntl.h>
#include <sys/epoll.h>

#include "sockets.h"

namespace {

using sockets::receive;
using sockets::say;

struct Pair {
  int a, b;
  explicit Pair(int type) {
    int ends[2];
    MUST(socketpair(AF_UNIX, type, 0, ends));
    a = ends[0], b = ends[1];
  }
};

void use(const Pair& pair) {
  say(pair.a, "there");
  EXPECT_TEXT(receive(pair.b), "there");
  say(pair.b, "back");
  EXPECT_TEXT(receive(pair.a), "back");
  EXPECT_TEXT(receive(pair.a), "-EAGAIN");
}

struct Messages {
  Pair datagrams{SOCK_DGRAM | SOCK_NONBLOCK}, packets{SOCK_SEQPACKET | SOCK_CLOEXEC};
  Pair stream{SOCK_STREAM};
  std::string large = std::string(3000, 'x');

  Messages() {
    for (const Pair& pair : {datagrams, packets}) {
      say(pair.a, "one");
      say(pair.a, large);
      say(pair.a, "three");
      say(pair.b, "answer");
    }
    say(stream.a, "bytes");
    say(stream.a, " together");
  }
  void check() {
    for (const Pair& pair : {datagrams, packets}) {
      EXPECT_TEXT(receive(pair.b), "one");
      EXPECT_TEXT(receive(pair.b), large);
      EXPECT_TEXT(receive(pair.b), "three");
      EXPECT_TEXT(receive(pair.b), "-EAGAIN");
      EXPECT_TEXT(receive(pair.a), "answer");
      use(pair);
    }
    EXPECT_TEXT(receive(stream.b), "bytes together");
    use(stream);
    EXPECT_EQ(fcntl(datagrams.a, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    EXPECT_EQ(fcntl(packets.b, F_GETFD), FD_CLOEXEC);
    close(stream.a);
    EXPECT_TEXT(receive(stream.b), "");
  }
};

struct HalfClosed {
  Pair stream{SOCK_STREAM}, packets{SOCK_SEQPACKET}, datagrams{SOCK_DGRAM}, reader{SOCK_STREAM};
  HalfClosed() {
    say(stream.a, "last");
    MUST(shutdown(stream.a, SHUT_WR));
    say(packets.a, "last");
    MUST(shutdown(packets.a, SHUT_WR));
    MUST(shutdown(datagrams.a, SHUT_WR));
    MUST(shutdown(reader.a, SHUT_RD));
  }
  void check() {
    for (const Pair& pair : {stream, packets}) {
      EXPECT_TEXT(receive(pair.b), "last");
      EXPECT_TEXT(receive(pair.b), "");
      EXPECT_EQ(send(pair.a, "x", 1, MSG_NOSIGNAL), -1);
      EXPECT_EQ(errno, EPIPE);
      say(pair.b, "still");
      EXPECT_TEXT(receive(pair.a), "still");
    }
    EXPECT_EQ(send(datagrams.a, "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, EPIPE);
    say(datagrams.b, "still");
    EXPECT_TEXT(receive(datagrams.a), "still");
    EXPECT_TEXT(receive(reader.a), "");
    EXPECT_EQ(send(reader.b, "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, EPIPE);
  }
};

struct Gone {
  Pair stream{SOCK_STREAM}, reset{SOCK_STREAM}, packets{SOCK_SEQPACKET}, datagrams{SOCK_DGRAM};
  Gone() {
    say(stream.a, "farewell");
    close(stream.a);
    say(reset.b, "unread");
    close(reset.a);
    say(packets.a, "of");
    say(packets.a, "two");
    close(packets.a);
    say(datagrams.a, "letter");
    close(datagrams.a);
  }
  void check() {
    EXPECT_EQ(sockets::ready_for(stream.b) & (POLLHUP | POLLERR | POLLIN), POLLHUP | POLLIN);
    EXPECT_TEXT(receive(stream.b), "farewell");
    EXPECT_TEXT(receive(stream.b), "");
    EXPECT_EQ(send(stream.b, "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, EPIPE);
    EXPECT_EQ(sockets::get(reset.b, SOL_SOCKET, SO_ERROR), ECONNRESET);
    EXPECT_TEXT(receive(reset.b), "");
    EXPECT_TEXT(receive(packets.b), "of");
    EXPECT_TEXT(receive(packets.b), "two");
    EXPECT_TEXT(receive(packets.b), "");
    EXPECT_TEXT(receive(datagrams.b), "letter");
    EXPECT_EQ(send(datagrams.b, "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, ECONNREFUSED);
  }
};

/// Who sent it is told with each message.
struct Credentials {
  Pair datagrams{SOCK_DGRAM}, stream{SOCK_STREAM};
  Credentials() {
    for (const Pair& pair : {datagrams, stream}) {
      sockets::set(pair.b, SOL_SOCKET, SO_PASSCRED, 1);
      say(pair.a, "from whom?");
    }
    MUST(shutdown(stream.a, SHUT_WR));
  }
  void check_one(int fd) {
    char bytes[64];
    iovec vector{bytes, sizeof bytes};
    alignas(cmsghdr) char control[256];
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    EXPECT_EQ(recvmsg(fd, &message, MSG_DONTWAIT), 10);
    const cmsghdr* const one = CMSG_FIRSTHDR(&message);
    EXPECT(one != nullptr && one->cmsg_type == SCM_CREDENTIALS);
    ucred sender;
    std::memcpy(&sender, CMSG_DATA(one), sizeof sender);
    EXPECT_EQ(sender.pid, getpid());
    EXPECT_EQ(sender.uid, getuid());
    EXPECT_EQ(sender.gid, getgid());
  }
  void check() {
    check_one(datagrams.b);
    check_one(stream.b);
    EXPECT_TEXT(receive(stream.b), "");
  }
};

/// Two descriptors of one end, and an epoll instance that watches the other.
struct Watched {
  Pair pair{SOCK_SEQPACKET};
  int again = MUST(dup(pair.a)), epoll = MUST(epoll_create1(0));
  Watched() {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = 77;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, pair.b, &event));
  }
  void check() {
    epoll_event event{};
    EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 0);
    close(pair.a);
    say(again, "for the watcher");
    EXPECT_EQ(epoll_wait(epoll, &event, 1, 1000), 1);
    EXPECT_EQ(event.data.u64, 77);
    EXPECT_TEXT(receive(pair.b), "for the watcher");
    close(again);
    EXPECT_TEXT(receive(pair.b), "");
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Messages messages;
  HalfClosed half_closed;
  Gone gone;
  Credentials credentials;
  Watched watched;
  target::ready();
  target::wait_for_go();
  messages.check();
  half_closed.check();
  gone.check();
  credentials.check();
  watched.check();
  target::finish();
}
