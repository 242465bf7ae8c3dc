// TCP connections of a target with itself.
#pragma once

#include <netinet/tcp.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "sockets.h"

namespace tcp {

/// A socket's address, or its peer's.
struct Name {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&address); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
  uint16_t port() const { return reinterpret_cast<const sockaddr_in*>(&address)->sin_port; }
  /// As IPv6, so that mapped addresses are those of IPv4.
  sockaddr_in6 six() const {
    sockaddr_in6 address6 = *reinterpret_cast<const sockaddr_in6*>(&address);
    if (address.ss_family == AF_INET6) return address6;
    const auto* const four = reinterpret_cast<const sockaddr_in*>(&address);
    address6 = {};
    address6.sin6_port = four->sin_port;
    address6.sin6_addr.s6_addr16[5] = 0xffff;
    address6.sin6_addr.s6_addr32[3] = four->sin_addr.s_addr;
    return address6;
  }
  bool operator==(const Name& other) const {
    const sockaddr_in6 one = six(), another = other.six();
    return one.sin6_port == another.sin6_port &&
           IN6_ARE_ADDR_EQUAL(&one.sin6_addr, &another.sin6_addr);
  }
};

inline Name name_of(int fd, decltype(getsockname)* ask = getsockname) {
  Name name;
  MUST(ask(fd, name.get(), &name.size));
  return name;
}

inline Name loopback(int family) {
  Name name;
  name.address.ss_family = static_cast<sa_family_t>(family);
  if (family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(&name.address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.size = sizeof(sockaddr_in);
  } else {
    reinterpret_cast<sockaddr_in6*>(&name.address)->sin6_addr = in6addr_loopback;
    name.size = sizeof(sockaddr_in6);
  }
  return name;
}

inline int make(int family, int flags = 0) {
  return MUST(socket(family, SOCK_STREAM | flags, 0));
}

inline int listen_at(const Name& name, int room = 0, int backlog = 8) {
  const int fd = make(name.address.ss_family);
  if (room != 0) sockets::set(fd, SOL_SOCKET, SO_RCVBUF, room);
  MUST(bind(fd, name.get(), name.size));
  MUST(listen(fd, backlog));
  return fd;
}

/// Two ends; nobody listens any more.
struct Pair {
  int client = -1, server = -1;

  explicit Pair(const Name& at = loopback(AF_INET), int room = 0) {
    const int listening = listen_at(at, room);
    const Name name = name_of(listening);
    client = make(at.address.ss_family);
    MUST(connect(client, name.get(), name.size));
    server = MUST(accept(listening, nullptr, nullptr));
    close(listening);
  }
  void expect_names() const {
    EXPECT(name_of(client) == name_of(server, getpeername));
    EXPECT(name_of(server) == name_of(client, getpeername));
  }
};

inline int state_of(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
  return info.tcpi_state;
}

/// All that comes within 5 s, until `size` bytes or the end.
inline std::string receive(int fd, size_t size) {
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    pollfd one{fd, POLLIN, 0};
    if (poll(&one, 1, 5000) != 1) target::fail("only %zu of %zu bytes have come", done, size);
    const ssize_t n = MUST(recv(fd, text.data() + done, size - done, 0));
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

inline void expect_end(int fd) {
  EXPECT_TEXT(receive(fd, 1), "");
}

inline void expect_nothing(int fd) {
  EXPECT_TEXT(sockets::receive(fd), "-EAGAIN");
}

/// Both ways.
inline void expect_works(int one, int other) {
  sockets::say(one, "there");
  EXPECT_TEXT(receive(other, 5), "there");
  sockets::say(other, "and back");
  EXPECT_TEXT(receive(one, 8), "and back");
}

}  // namespace tcp
