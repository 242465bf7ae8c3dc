// TCP sockets without a connection: listening on IPv4 and IPv6 with their options and backlog,
// bound, unbound, and closed ones.
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

#include "sockets.h"

namespace {

using sockets::get;
using sockets::set;

int make(int family) {
  return MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

sockaddr_in name_of(int fd) {
  sockaddr_in name{};
  socklen_t size = sizeof name;
  MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size));
  return name;
}

void bind_loopback(int fd) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  MUST(bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name));
}

void serve(int fd, const sockaddr_in& name, const char* text) {
  const int client = make(AF_INET);
  MUST(connect(client, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  sockets::say(client, text);
  const int accepted = MUST(accept(fd, nullptr, nullptr));
  char bytes[64];
  const ssize_t n = MUST(read(accepted, bytes, sizeof bytes));
  EXPECT_TEXT(std::string(bytes, static_cast<size_t>(n)), text);
  close(client);
  close(accepted);
}

struct Listening {
  int fd = make(AF_INET), epoll = MUST(epoll_create1(0));
  sockaddr_in name;

  Listening() {
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 11);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
    set(fd, IPPROTO_IP, IP_TOS, 0x10);
    set(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
    bind_loopback(fd);
    MUST(listen(fd, 9));
    set(fd, IPPROTO_TCP, TCP_FASTOPEN, 5);
    name = name_of(fd);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = 99;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
  }
  void check() {
    EXPECT_EQ(name_of(fd).sin_port, name.sin_port);
    EXPECT_EQ(name_of(fd).sin_addr.s_addr, name.sin_addr.s_addr);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_REUSEADDR), 1);
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_KEEPIDLE), 77);
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_KEEPINTVL), 11);
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_KEEPCNT), 3);
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 12345);
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_TOS), 0x10);
    EXPECT(get(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT) >= 5);
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_FASTOPEN), 5);
    tcp_info info{};
    socklen_t size = sizeof info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
    EXPECT_EQ(info.tcpi_sacked, 9);  // the backlog
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    epoll_event event{};
    EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 0);
    const int client = make(AF_INET);
    MUST(connect(client, reinterpret_cast<const sockaddr*>(&name), sizeof name));
    sockets::say(client, "x");
    EXPECT_EQ(epoll_wait(epoll, &event, 1, 5000), 1);
    EXPECT_EQ(event.data.u64, 99);
    close(MUST(accept(fd, nullptr, nullptr)));
    close(client);
    serve(fd, name, "request");
  }
};

/// On IPv6 only, and the same port on IPv4: each is the other's rival unless IPV6_V6ONLY is back.
struct BothFamilies {
  int six = -1, four = make(AF_INET);
  sockaddr_in name;

  BothFamilies() {
    sockaddr_in any{};
    any.sin_family = AF_INET;
    MUST(bind(four, reinterpret_cast<const sockaddr*>(&any), sizeof any));
    name = name_of(four);
    MUST(listen(four, SOMAXCONN));
    six = socket(AF_INET6, SOCK_STREAM, 0);
    if (six < 0) return;  // no IPv6 here
    set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    sockaddr_in6 any6{};
    any6.sin6_family = AF_INET6;
    any6.sin6_port = name.sin_port;
    MUST(bind(six, reinterpret_cast<const sockaddr*>(&any6), sizeof any6));
    MUST(listen(six, 4));
  }
  void check() {
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    serve(four, name, "by four");
    if (six < 0) return;
    EXPECT_EQ(get(six, IPPROTO_IPV6, IPV6_V6ONLY), 1);
    sockaddr_in6 loopback{};
    loopback.sin6_family = AF_INET6;
    loopback.sin6_port = name.sin_port;
    loopback.sin6_addr = in6addr_loopback;
    const int client = make(AF_INET6);
    MUST(connect(client, reinterpret_cast<const sockaddr*>(&loopback), sizeof loopback));
    close(MUST(accept(six, nullptr, nullptr)));
  }
};

struct Unconnected {
  int fresh = make(AF_INET), bound = make(AF_INET), refused = make(AF_INET), shut = make(AF_INET);
  sockaddr_in name;

  Unconnected() {
    set(fresh, SOL_SOCKET, SO_RCVBUF, 20000);
    bind_loopback(bound);
    name = name_of(bound);
    // Nobody listens there.
    EXPECT_EQ(connect(refused, reinterpret_cast<const sockaddr*>(&name), sizeof name), -1);
    (void)shutdown(shut, SHUT_RDWR);
  }
  void check() {
    EXPECT_EQ(get(fresh, SOL_SOCKET, SO_RCVBUF), 40000);
    EXPECT_EQ(name_of(bound).sin_port, name.sin_port);
    char byte;
    EXPECT_EQ(read(shut, &byte, 1), 0);
    EXPECT_EQ(send(shut, &byte, 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, EPIPE);
    EXPECT_EQ(read(fresh, &byte, 1), -1);
    EXPECT_EQ(errno, ENOTCONN);
    MUST(listen(bound, 1));
    MUST(connect(fresh, reinterpret_cast<const sockaddr*>(&name), sizeof name));
    MUST(connect(refused, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  }
};

/// A listening socket whose options can't all be set any more, with a key of its own.
struct FastOpen {
  int fd = make(AF_INET);
  bool connects, has_key;
  char key[17] = "a key of 16 byte";
  FastOpen() {
    const int on = 1;
    connects = setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on) == 0;
    set(fd, IPPROTO_TCP, TCP_FASTOPEN, 3);
    has_key = setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, 16) == 0;
    bind_loopback(fd);
    MUST(listen(fd, 3));
  }
  void check() {
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT), connects ? 1 : 0);
    EXPECT_EQ(get(fd, IPPROTO_TCP, TCP_FASTOPEN), 3);
    if (!has_key) return;
    char now[17] = "";
    socklen_t size = 16;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_KEY, now, &size));
    EXPECT_TEXT(std::string(now), key);
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Listening listening;
  BothFamilies families;
  Unconnected unconnected;
  FastOpen fast_open;
  target::ready();
  target::wait_for_go();
  listening.check();
  families.check();
  unconnected.check();
  fast_open.check();
  target::finish();
}
