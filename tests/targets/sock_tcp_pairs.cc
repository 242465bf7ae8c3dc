// TCP connections of a process with itself: IPv4, IPv6 and between the two, with what is queued at
// both ends, more than the receiver has room for, half closed, closed at one end or both.
#include <fcntl.h>
#include <ifaddrs.h>
#include <signal.h>
#include <sys/epoll.h>

#include "tcp.h"

namespace {

using sockets::get;
using sockets::say;
using sockets::set;
using tcp::expect_end;
using tcp::expect_nothing;
using tcp::expect_works;
using tcp::loopback;
using tcp::Pair;
using tcp::receive;

struct Plain {
  Pair four, six;
  int again, epoll = MUST(epoll_create1(0));

  explicit Plain(bool has_six) : six(loopback(has_six ? AF_INET6 : AF_INET)) {
    say(four.client, "question");
    say(four.server, "answer");
    say(six.client, "by six");
    again = MUST(dup(four.client));
    set(four.client, IPPROTO_TCP, TCP_NODELAY, 1);
    set(four.client, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(four.client, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    set(four.client, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
    set(four.server, SOL_SOCKET, SO_RCVBUF, 30000);
    set(four.server, SOL_SOCKET, SO_RCVLOWAT, 3);
    const linger wait{1, 5};
    MUST(setsockopt(four.server, SOL_SOCKET, SO_LINGER, &wait, sizeof wait));
    MUST(fcntl(four.client, F_SETFL, O_NONBLOCK));
    MUST(fcntl(four.client, F_SETFD, FD_CLOEXEC));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = 7;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, six.server, &event));
    event.data.u64 = 8;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, six.client, &event));
  }
  void check() {
    four.expect_names();
    six.expect_names();
    EXPECT_EQ(get(four.client, IPPROTO_TCP, TCP_NODELAY), 1);
    EXPECT_EQ(get(four.server, IPPROTO_TCP, TCP_NODELAY), 0);
    EXPECT_EQ(get(four.client, SOL_SOCKET, SO_KEEPALIVE), 1);
    EXPECT_EQ(get(four.client, IPPROTO_TCP, TCP_KEEPIDLE), 77);
    EXPECT_EQ(get(four.client, IPPROTO_TCP, TCP_USER_TIMEOUT), 12345);
    EXPECT_EQ(get(four.client, SOL_SOCKET, SO_REUSEADDR), 0);
    EXPECT_EQ(get(four.server, SOL_SOCKET, SO_REUSEADDR), 0);
    EXPECT_EQ(get(four.server, SOL_SOCKET, SO_RCVBUF), 60000);
    EXPECT_EQ(get(four.server, SOL_SOCKET, SO_RCVLOWAT), 3);
    linger wait{};
    socklen_t size = sizeof wait;
    MUST(getsockopt(four.server, SOL_SOCKET, SO_LINGER, &wait, &size));
    EXPECT_EQ(wait.l_linger, 5);
    EXPECT_EQ(fcntl(four.client, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    EXPECT_EQ(fcntl(four.server, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_EQ(fcntl(four.client, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(again, F_GETFD), 0);
    EXPECT_EQ(get(four.client, SOL_SOCKET, SO_ERROR), 0);
    epoll_event events[4];
    EXPECT_EQ(epoll_wait(epoll, events, 4, 1000), 1);
    EXPECT_EQ(events[0].data.u64, 7);
    EXPECT_TEXT(receive(four.server, 8), "question");
    EXPECT_TEXT(receive(again, 6), "answer");
    EXPECT_TEXT(receive(six.server, 6), "by six");
    for (const int fd : {four.server, four.client, six.server}) expect_nothing(fd);
    expect_works(again, four.server);
    expect_works(six.client, six.server);
    close(four.client);
    expect_works(again, four.server);  // the other descriptor is the same connection
    close(again);
    expect_end(four.server);
  }
};

/// From IPv4 to an end that speaks IPv6, and another address of this host if it has one.
struct Between {
  int client = tcp::make(AF_INET), server = -1;
  Pair* outside = nullptr;

  explicit Between(bool has_six) {
    tcp::Name any;
    any.address.ss_family = has_six ? AF_INET6 : AF_INET;
    any.size = has_six ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    const int listening = tcp::listen_at(any);
    tcp::Name to = loopback(AF_INET);
    reinterpret_cast<sockaddr_in*>(&to.address)->sin_port = tcp::name_of(listening).port();
    MUST(connect(client, to.get(), to.size));
    server = MUST(accept(listening, nullptr, nullptr));
    close(listening);
    say(client, "from four");
    say(server, "from six");
    ifaddrs* addresses = nullptr;
    MUST(getifaddrs(&addresses));
    for (const ifaddrs* one = addresses; one != nullptr; one = one->ifa_next) {
      if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
      const auto* const four = reinterpret_cast<const sockaddr_in*>(one->ifa_addr);
      if (ntohl(four->sin_addr.s_addr) >> 24 == 127 || outside != nullptr) continue;
      tcp::Name name;
      std::memcpy(&name.address, four, sizeof *four);
      name.size = sizeof *four;
      outside = new Pair(name);
      say(outside->client, "outside");
    }
    freeifaddrs(addresses);
  }
  void check() {
    EXPECT(tcp::name_of(client) == tcp::name_of(server, getpeername));
    EXPECT_TEXT(receive(server, 9), "from four");
    EXPECT_TEXT(receive(client, 8), "from six");
    expect_works(client, server);
    if (outside == nullptr) return;
    outside->expect_names();
    EXPECT_TEXT(receive(outside->server, 7), "outside");
    expect_works(outside->server, outside->client);
  }
};

/// More than one end has room for is still with the other.
struct Full {
  Pair tight{loopback(AF_INET), 4096}, loose;
  size_t tight_size = 0, loose_size = 0;

  static char byte_at(size_t i) { return static_cast<char>(i * 7 + i / 251); }
  static size_t pour(int fd, size_t start, size_t most) {
    char bytes[16384];
    size_t done = 0;
    for (int idle = 0; idle < 3 && done < most;) {
      for (size_t i = 0; i < sizeof bytes; ++i) bytes[i] = byte_at(start + done + i);
      const ssize_t n = send(fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n > 0) {
        done += static_cast<size_t>(n);
      } else {
        EXPECT_EQ(errno, EAGAIN);
        ++idle;
        usleep(20'000);
      }
    }
    return done;
  }
  static void drain(int fd, size_t size) {
    const std::string text = receive(fd, size);
    EXPECT_EQ(text.size(), size);
    for (size_t i = 0; i < size; ++i) {
      if (text[i] != byte_at(i)) target::fail("byte %zu of %zu is another one", i, size);
    }
  }

  Full() {
    set(tight.client, SOL_SOCKET, SO_SNDBUF, 100'000);
    tight_size = pour(tight.client, 0, 1u << 20);
    EXPECT(tight_size > 100'000);
    loose_size = pour(loose.server, 0, 900'000);
  }
  void check() {
    EXPECT_EQ(get(tight.server, SOL_SOCKET, SO_RCVBUF), 8192);
    EXPECT_EQ(get(tight.client, SOL_SOCKET, SO_SNDBUF), 200'000);
    drain(tight.server, tight_size);
    drain(loose.client, loose_size);
    expect_nothing(tight.server);
    expect_works(tight.client, tight.server);
    expect_works(loose.client, loose.server);
    // A receiver that doesn't read stops the sender again.
    EXPECT(pour(tight.client, 0, 8u << 20) < (8u << 20));
  }
};

/// Small segments that wait for more.
struct HeldBack {
  Pair corked, lazy;
  HeldBack() {
    set(corked.client, IPPROTO_TCP, TCP_CORK, 1);
    say(corked.client, "corked");
    for (const char* const text : {"one ", "two ", "three"}) say(lazy.server, text);
  }
  void check() {
    EXPECT_EQ(get(corked.client, IPPROTO_TCP, TCP_CORK), 1);
    EXPECT_EQ(get(corked.client, IPPROTO_TCP, TCP_NODELAY), 0);
    say(corked.client, " and freed");
    set(corked.client, IPPROTO_TCP, TCP_CORK, 0);
    EXPECT_TEXT(receive(corked.server, 16), "corked and freed");
    EXPECT_TEXT(receive(lazy.client, 13), "one two three");
  }
};

struct Closed {
  Pair half, deaf, by_client, by_server, both, empty;

  Closed() {
    say(half.client, "all of it");
    MUST(shutdown(half.client, SHUT_WR));
    MUST(shutdown(deaf.server, SHUT_RD));
    say(by_client.client, "farewell");
    close(by_client.client);
    say(by_server.server, "response");
    close(by_server.server);
    say(both.client, "left behind");
    close(both.client);
    while ((sockets::ready_for(both.server) & POLLRDHUP) == 0) usleep(1000);
    MUST(shutdown(both.server, SHUT_WR));
    while (tcp::state_of(both.server) != TCP_CLOSE) usleep(1000);
    close(empty.server);
    while (tcp::state_of(empty.client) != TCP_CLOSE_WAIT) usleep(1000);
  }
  static void expect_refused(int fd) {
    // The first one finds out that nobody is there.
    (void)!send(fd, "x", 1, MSG_NOSIGNAL);
    for (int i = 0; i < 1000 && (sockets::ready_for(fd) & POLLERR) == 0; ++i) usleep(1000);
    EXPECT_EQ(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    EXPECT(errno == EPIPE || errno == ECONNRESET);
  }
  void check() {
    EXPECT_EQ(tcp::state_of(half.client), TCP_FIN_WAIT2);
    EXPECT_EQ(send(half.client, "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, EPIPE);
    EXPECT_TEXT(receive(half.server, 100), "all of it");
    expect_end(half.server);
    say(half.server, "but answered");
    close(half.server);
    EXPECT_TEXT(receive(half.client, 100), "but answered");
    expect_end(half.client);

    expect_end(deaf.server);
    EXPECT_EQ(tcp::state_of(deaf.server), TCP_ESTABLISHED);
    say(deaf.server, "it speaks");
    EXPECT_TEXT(receive(deaf.client, 9), "it speaks");

    EXPECT_EQ(tcp::state_of(by_client.server), TCP_CLOSE_WAIT);
    EXPECT_TEXT(receive(by_client.server, 100), "farewell");
    expect_end(by_client.server);
    expect_refused(by_client.server);
    EXPECT_TEXT(receive(by_server.client, 100), "response");
    expect_end(by_server.client);
    expect_refused(by_server.client);
    EXPECT_TEXT(receive(both.server, 100), "left behind");
    expect_end(both.server);
    EXPECT_EQ(send(both.server, "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, EPIPE);
    expect_end(empty.client);
  }
};

/// A socket that is connected to itself.
struct Alone {
  int fd = tcp::make(AF_INET);
  Alone() {
    const tcp::Name any = loopback(AF_INET);
    MUST(bind(fd, any.get(), any.size));
    const tcp::Name name = tcp::name_of(fd);
    MUST(connect(fd, name.get(), name.size));
    say(fd, "to myself");
  }
  void check() {
    EXPECT(tcp::name_of(fd) == tcp::name_of(fd, getpeername));
    EXPECT_TEXT(receive(fd, 9), "to myself");
    expect_works(fd, fd);
  }
};

bool has_six() {
  const int fd = socket(AF_INET6, SOCK_STREAM, 0);
  const tcp::Name name = loopback(AF_INET6);
  const bool has = fd >= 0 && bind(fd, name.get(), name.size) == 0;
  if (fd >= 0) close(fd);
  return has;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Plain plain(has_six());
  Between between(has_six());
  Full full;
  HeldBack held_back;
  Closed closed;
  Alone alone;
  target::ready();
  target::wait_for_go();
  plain.check();
  between.check();
  full.check();
  held_back.check();
  closed.check();
  alone.check();
  target::finish();
}
