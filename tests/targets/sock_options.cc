// Options of sockets that have no name: every one that an ordinary user may set.
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include <span>

#include "sockets.h"

namespace {

using sockets::get;
using sockets::set;

struct Value {
  int level, option, value, read;
};

constexpr Value kOfAll[] = {
    {SOL_SOCKET, SO_SNDBUF, 30000, 60000}, {SOL_SOCKET, SO_RCVBUF, 20000, 40000},
    {SOL_SOCKET, SO_PRIORITY, 4, 4},       {SOL_SOCKET, SO_RCVLOWAT, 3, 3},
    {SOL_SOCKET, SO_KEEPALIVE, 1, 1},      {SOL_SOCKET, SO_REUSEPORT, 1, 1},
    {SOL_SOCKET, SO_OOBINLINE, 1, 1},      {SOL_SOCKET, SO_DONTROUTE, 1, 1},
};
constexpr Value kOfUnix[] = {
    {SOL_SOCKET, SO_SNDBUF, 30000, 60000}, {SOL_SOCKET, SO_RCVBUF, 20000, 40000},
    {SOL_SOCKET, SO_PASSCRED, 1, 1},       {SOL_SOCKET, SO_PEEK_OFF, 5, 5},
    {SOL_SOCKET, SO_PRIORITY, 3, 3},
};
constexpr Value kOfTcp[] = {
    {IPPROTO_TCP, TCP_NODELAY, 1, 1},
    {IPPROTO_TCP, TCP_SYNCNT, 2, 2},
    {IPPROTO_TCP, TCP_LINGER2, 7, 7},
    {IPPROTO_TCP, TCP_MAXSEG, 700, 700},
    {IPPROTO_TCP, TCP_CORK, 1, 1},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 9999, 9999},
    {IPPROTO_IP, IP_TTL, 33, 33},
    {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_DO},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1, 1},
};

void set_all(int fd, std::span<const Value> values) {
  for (const Value& one : values) set(fd, one.level, one.option, one.value);
}

void expect_all(int fd, std::span<const Value> values) {
  for (const Value& one : values) {
    const int got = get(fd, one.level, one.option);
    if (got != one.read)
      target::fail("option %d of level %d is %d, not %d", one.option, one.level, got, one.read);
  }
}

struct Times {
  int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  Times() {
    const timeval receive{0, 50'000}, send{3, 0};
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof receive));
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send, sizeof send));
    const linger patience{1, 12};
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &patience, sizeof patience));
    set(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1);
  }
  void check() {
    linger patience{};
    socklen_t size = sizeof patience;
    MUST(getsockopt(fd, SOL_SOCKET, SO_LINGER, &patience, &size));
    EXPECT_EQ(patience.l_onoff, 1);
    EXPECT_EQ(patience.l_linger, 12);
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_TIMESTAMPNS), 1);
    char byte;
    EXPECT_EQ(recv(fd, &byte, 1, 0), -1);  // after its time
    EXPECT_EQ(errno, EAGAIN);
  }
};

constexpr Value kOfSix[] = {
    {IPPROTO_IPV6, IPV6_2292PKTINFO, 1, 1},  {IPPROTO_IPV6, IPV6_2292HOPOPTS, 1, 1},
    {IPPROTO_IPV6, IPV6_2292DSTOPTS, 1, 1},  {IPPROTO_IPV6, IPV6_2292RTHDR, 1, 1},
    {IPPROTO_IPV6, IPV6_2292HOPLIMIT, 1, 1},
};

/// In this order: each may change what was set before it.
struct Ordered {
  int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0)), other = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  Ordered() {
    set(fd, IPPROTO_IP, IP_TOS, 0x10);
    set(fd, SOL_SOCKET, SO_PRIORITY, 5);
    set(other, SOL_SOCKET, SO_PRIORITY, 5);
    set(other, IPPROTO_IP, IP_TOS, 0x10);
  }
  void check() {
    EXPECT_EQ(get(fd, SOL_SOCKET, SO_PRIORITY), 5);
    EXPECT_EQ(get(fd, IPPROTO_IP, IP_TOS), 0x10);
    EXPECT_EQ(get(other, SOL_SOCKET, SO_PRIORITY), 6);  // TC_PRIO_INTERACTIVE
  }
};

/// By the number that 64-bit times have.
struct NewTimestamps {
  static constexpr int kNew = 65;  // SO_TIMESTAMPING_NEW
  static constexpr int kFlags = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
  int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  NewTimestamps() { set(fd, SOL_SOCKET, kNew, kFlags); }
  void check() { EXPECT_EQ(get(fd, SOL_SOCKET, kNew), kFlags); }
};

/// Options that go out with every packet, for which an ordinary user has no right.
struct Header {
  static constexpr unsigned char kPadding[] = {0, 0, 1, 4, 0, 0, 0, 0};  // RFC 8200: PadN
  int fd = socket(AF_INET6, SOCK_DGRAM, 0);
  bool there = false;
  Header() {
    if (fd < 0) return;  // no IPv6 here
    set_all(fd, kOfSix);
    there = setsockopt(fd, IPPROTO_IPV6, IPV6_DSTOPTS, kPadding, sizeof kPadding) == 0;
  }
  void check() {
    if (fd < 0) return;
    expect_all(fd, kOfSix);
    unsigned char now[64] = "";
    socklen_t size = sizeof now;
    MUST(getsockopt(fd, IPPROTO_IPV6, IPV6_DSTOPTS, now, &size));
    EXPECT_EQ(size, there ? sizeof kPadding : 0);
    EXPECT_EQ(std::memcmp(now, kPadding, size), 0);
  }
};

/// A peek goes on where the last one ended, and credentials are told.
struct Unix {
  int pair[2];
  Unix() {
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    sockets::say(pair[0], "0123456789");
    set_all(pair[1], kOfUnix);
    char bytes[2];
    EXPECT_EQ(recv(pair[1], bytes, 2, MSG_PEEK), 2);
    EXPECT_EQ(bytes[0], '5');
  }
  void check() {
    EXPECT_EQ(get(pair[1], SOL_SOCKET, SO_PEEK_OFF), 7);
    char bytes[2];
    EXPECT_EQ(recv(pair[1], bytes, 2, MSG_PEEK), 2);
    EXPECT_EQ(bytes[0], '7');
    set(pair[1], SOL_SOCKET, SO_PEEK_OFF, 5);
    expect_all(pair[1], kOfUnix);
    EXPECT_EQ(get(pair[0], SOL_SOCKET, SO_PEEK_OFF), -1);
    EXPECT_EQ(get(pair[0], SOL_SOCKET, SO_PASSCRED), 0);
  }
};

/// A filter that lets pass what begins with 'y', and can't be changed any more.
struct Filtered {
  int pair[2];
  Filtered() {
    MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair));
    sock_filter code[] = {
        {BPF_LD | BPF_B | BPF_ABS, 0, 0, 0},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'y'},
        {BPF_RET | BPF_K, 0, 0, 0xffff},
        {BPF_RET | BPF_K, 0, 0, 0},
    };
    const sock_fprog program{4, code};
    sockets::say(pair[0], "no, but before the filter");
    MUST(setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    set(pair[1], SOL_SOCKET, SO_LOCK_FILTER, 1);
  }
  void check() {
    EXPECT_TEXT(sockets::receive(pair[1]), "no, but before the filter");
    (void)!send(pair[0], "no", 2, 0);
    sockets::say(pair[0], "yes");
    EXPECT_TEXT(sockets::receive(pair[1]), "yes");
    EXPECT_TEXT(sockets::receive(pair[1]), "-EAGAIN");
    const int off = 0;
    EXPECT_EQ(setsockopt(pair[1], SOL_SOCKET, SO_DETACH_FILTER, &off, sizeof off), -1);
    EXPECT_EQ(errno, EPERM);
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Unix pair;
  Times times;
  Filtered filtered;
  Ordered ordered;
  NewTimestamps timestamps;
  Header header;
  const int tcp = MUST(socket(AF_INET, SOCK_STREAM, 0)), udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  set_all(tcp, kOfAll);
  set_all(tcp, kOfTcp);
  const char congestion[] = "reno";
  MUST(setsockopt(tcp, IPPROTO_TCP, TCP_CONGESTION, congestion, sizeof congestion));
  set(udp, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE);

  target::ready();
  target::wait_for_go();

  pair.check();
  times.check();
  filtered.check();
  ordered.check();
  timestamps.check();
  header.check();
  expect_all(tcp, kOfAll);
  expect_all(tcp, kOfTcp);
  char name[16] = "";
  socklen_t size = sizeof name;
  MUST(getsockopt(tcp, IPPROTO_TCP, TCP_CONGESTION, name, &size));
  EXPECT_TEXT(std::string(name), "reno");
  EXPECT_EQ(get(udp, SOL_SOCKET, SO_TIMESTAMPING),
            SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE);
  target::finish();
}
