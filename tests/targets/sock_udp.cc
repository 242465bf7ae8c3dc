// UDP sockets: unbound, bound and connected, on IPv4 and IPv6, with datagrams whose senders are the
// process's own, options, and multicast groups.
#include <arpa/inet.h>
#include <netinet/udp.h>

#include "sockets.h"

namespace {

using sockets::get;
using sockets::set;

int make(int family = AF_INET) {
  return MUST(socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0));
}

sockaddr_in name_of(int fd, decltype(getsockname)* ask = getsockname) {
  sockaddr_in name{};
  socklen_t size = sizeof name;
  MUST(ask(fd, reinterpret_cast<sockaddr*>(&name), &size));
  return name;
}

sockaddr_in bind_loopback(int fd) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  MUST(bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  return name_of(fd);
}

void send_to(int fd, const std::string& text, const sockaddr_in& to) {
  EXPECT_EQ(
      sendto(fd, text.data(), text.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof to),
      text.size());
}

std::string receive(int fd, sockaddr_in& from) {
  char bytes[2048];
  socklen_t size = sizeof from;
  const ssize_t n = recvfrom(fd, bytes, sizeof bytes, 0, reinterpret_cast<sockaddr*>(&from), &size);
  return n < 0 ? std::string("-") + strerrorname_np(errno) : std::string(bytes, size_t(n));
}

struct Datagrams {
  int server = make(), client = make(), other = make();
  sockaddr_in where = bind_loopback(server), mine, theirs = bind_loopback(other);

  Datagrams() {
    MUST(connect(client, reinterpret_cast<const sockaddr*>(&where), sizeof where));
    mine = name_of(client);
    sockets::say(client, "first");
    send_to(other, "second", where);
    sockets::say(client, "");
    sockets::say(client, "last");
    send_to(server, "answer", mine);
  }
  void check() {
    sockaddr_in from{};
    EXPECT_EQ(name_of(client).sin_port, mine.sin_port);
    EXPECT_EQ(name_of(client, getpeername).sin_port, where.sin_port);
    EXPECT_TEXT(receive(server, from), "first");
    EXPECT_EQ(from.sin_port, mine.sin_port);
    EXPECT_TEXT(receive(server, from), "second");
    EXPECT_EQ(from.sin_port, theirs.sin_port);
    EXPECT_TEXT(receive(server, from), "");
    EXPECT_TEXT(receive(server, from), "last");
    EXPECT_TEXT(receive(server, from), "-EAGAIN");
    EXPECT_TEXT(receive(client, from), "answer");
    EXPECT_EQ(from.sin_port, where.sin_port);
    // It hears its peer alone.
    send_to(other, "stranger", mine);
    EXPECT_TEXT(receive(client, from), "-EAGAIN");
    sockets::say(client, "again");
    EXPECT_TEXT(receive(server, from), "again");
  }
};

struct Options {
  int fd = make();
  Options() {
    set(fd, SOL_SOCKET, SO_BROADCAST, 1);
    set(fd, IPPROTO_IP, IP_TTL, 9);
    set(fd, IPPROTO_IP, IP_PKTINFO, 1);
    set(fd, IPPROTO_IP, IP_MULTICAST_TTL, 5);
    set(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0);
    set(fd, IPPROTO_UDP, UDP_SEGMENT, 1000);
  }
  void check() {
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_BROADCAST), 1);
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_TTL), 9);
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_PKTINFO), 1);
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_MULTICAST_TTL), 5);
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_MULTICAST_LOOP), 0);
    EXPECT_EQ(get(fd, IPPROTO_UDP, UDP_SEGMENT), 1000);
  }
};

/// What is sent to the group comes to who is in it alone.
struct Multicast {
  int member = make(), stranger = make(), sender = make();
  sockaddr_in group{};

  Multicast() {
    group.sin_family = AF_INET;
    inet_pton(AF_INET, "239.7.7.7", &group.sin_addr);
    for (const int fd : {member, stranger}) {
      set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
      set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
      sockaddr_in any{};
      any.sin_family = AF_INET;
      any.sin_port = group.sin_port;
      MUST(bind(fd, reinterpret_cast<const sockaddr*>(&any), sizeof any));
      group.sin_port = name_of(fd).sin_port;
    }
    ip_mreqn request{};
    request.imr_multiaddr = group.sin_addr;
    request.imr_address.s_addr = htonl(INADDR_LOOPBACK);
    MUST(setsockopt(member, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request));
    MUST(setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request));
  }
  void check() {
    sockaddr_in from{};
    send_to(sender, "to all of you", group);
    pollfd one{member, POLLIN, 0};
    EXPECT_EQ(poll(&one, 1, 5000), 1);
    EXPECT_TEXT(receive(member, from), "to all of you");
    EXPECT_TEXT(receive(stranger, from), "-EAGAIN");
    ip_mreqn request{};
    request.imr_multiaddr = group.sin_addr;
    request.imr_address.s_addr = htonl(INADDR_LOOPBACK);
    MUST(setsockopt(member, IPPROTO_IP, IP_DROP_MEMBERSHIP, &request, sizeof request));
  }
};

struct Six {
  int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0), sender = -1;
  sockaddr_in6 name{};

  Six() {
    if (fd < 0) return;  // no IPv6 here
    set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    set(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x20);
    name.sin6_family = AF_INET6;
    MUST(bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name));
    socklen_t size = sizeof name;
    MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size));
    sender = make(AF_INET6);
    sockaddr_in6 to = name;
    to.sin6_addr = in6addr_loopback;
    MUST(connect(sender, reinterpret_cast<const sockaddr*>(&to), sizeof to));
    sockets::say(sender, "by six");
  }
  void check() {
    if (fd < 0) return;
    EXPECT_EQ(get(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO), 1);
    EXPECT_EQ(get(fd, IPPROTO_IPV6, IPV6_TCLASS), 0x20);
    EXPECT_TEXT(sockets::receive(fd), "by six");
    sockets::say(sender, "again");
    EXPECT_TEXT(sockets::receive(fd), "again");
  }
};

struct Itself {
  int fd = make();
  Itself() {
    const sockaddr_in where = bind_loopback(fd);
    MUST(connect(fd, reinterpret_cast<const sockaddr*>(&where), sizeof where));
    sockets::say(fd, "before");
    sockets::say(fd, "");
  }
  void check() {
    for (const char* text : {"before", "", "-EAGAIN"}) EXPECT_TEXT(sockets::receive(fd), text);
    sockets::say(fd, "after");
    EXPECT_TEXT(sockets::receive(fd), "after");
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Datagrams datagrams;
  Options options;
  Multicast multicast;
  Six six;
  Itself itself;
  target::ready();
  target::wait_for_go();
  datagrams.check();
  options.check();
  multicast.check();
  six.check();
  itself.check();
  target::finish();
}
