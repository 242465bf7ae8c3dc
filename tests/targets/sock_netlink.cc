// Netlink sockets with their groups and options; as root also raw and packet sockets with filters.
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/icmp.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <vector>

#include "sockets.h"

namespace {

using sockets::get;
using sockets::set;

std::vector<uint32_t> groups_of(int fd) {
  std::vector<uint32_t> bits(8);
  socklen_t size = sizeof(uint32_t) * 8;
  MUST(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits.data(), &size));
  return bits;
}

struct Netlink {
  int route = MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  int events = MUST(socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  std::vector<uint32_t> groups;
  uint32_t port = 0;

  Netlink() {
    sockaddr_nl name{};
    name.nl_family = AF_NETLINK;
    name.nl_pid = port = 0x10000000u + static_cast<uint32_t>(getpid());
    name.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR;
    MUST(bind(route, reinterpret_cast<const sockaddr*>(&name), sizeof name));
    set(route, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_ND_USEROPT);
    set(route, SOL_NETLINK, NETLINK_EXT_ACK, 1);
    set(route, SOL_NETLINK, NETLINK_CAP_ACK, 1);
    groups = groups_of(route);
    name.nl_pid = 0;
    name.nl_groups = 1;
    MUST(bind(events, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  }
  void check() {
    EXPECT(groups_of(route) == groups);
    EXPECT_EQ(groups_of(events)[0], 1);
    EXPECT_EQ(get(route, SOL_NETLINK, NETLINK_EXT_ACK), 1);
    EXPECT_EQ(get(route, SOL_NETLINK, NETLINK_CAP_ACK), 1);
    sockaddr_nl name{};
    socklen_t size = sizeof name;
    MUST(getsockname(route, reinterpret_cast<sockaddr*>(&name), &size));
    EXPECT_EQ(name.nl_pid, port);
    // It is still a way to ask the kernel something.
    struct {
      nlmsghdr header{};
      ifinfomsg message{};
    } question;
    question.header.nlmsg_len = sizeof question;
    question.header.nlmsg_type = RTM_GETLINK;
    question.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    EXPECT_EQ(send(route, &question, sizeof question, 0), sizeof question);
    alignas(nlmsghdr) char answer[16384];
    EXPECT(recv(route, answer, sizeof answer, 0) > 0);
    EXPECT_EQ(reinterpret_cast<nlmsghdr*>(answer)->nlmsg_type, RTM_NEWLINK);
  }
};

/// Lets datagrams to one port pass.
sock_fprog only_to(uint16_t port, sock_filter (&code)[4]) {
  code[0] = {BPF_LD | BPF_H | BPF_ABS, 0, 0, 22};  // UDP's destination, without the link's header
  code[1] = {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, port};
  code[2] = {BPF_RET | BPF_K, 0, 0, 0xffff};
  code[3] = {BPF_RET | BPF_K, 0, 0, 0};
  return {4, code};
}

void send_to_port(uint16_t port) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(port);
  EXPECT_EQ(sendto(fd, "packet", 6, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to), 6);
  close(fd);
}

struct Raw {
  int icmp = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_ICMP), packet = -1;
  icmp_filter filter{~(1u << ICMP_ECHO)};
  bool allowed() const { return icmp >= 0; }

  Raw() {
    if (!allowed()) return;
    MUST(setsockopt(icmp, SOL_RAW, ICMP_FILTER, &filter, sizeof filter));
    packet = MUST(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    sock_filter code[4];
    const sock_fprog program = only_to(4444, code);
    MUST(setsockopt(packet, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    sockaddr_ll name{};
    name.sll_family = AF_PACKET;
    name.sll_protocol = htons(ETH_P_IP);
    name.sll_ifindex = 1;  // lo, in every network namespace
    MUST(bind(packet, reinterpret_cast<const sockaddr*>(&name), sizeof name));
    set(packet, SOL_PACKET, PACKET_AUXDATA, 1);
  }
  void check() {
    if (!allowed()) return;
    icmp_filter now{};
    socklen_t size = sizeof now;
    MUST(getsockopt(icmp, SOL_RAW, ICMP_FILTER, &now, &size));
    EXPECT_EQ(now.data, filter.data);
    EXPECT_EQ(get(packet, SOL_PACKET, PACKET_AUXDATA), 1);
    send_to_port(4443);
    send_to_port(4444);
    char bytes[2048];
    pollfd one{packet, POLLIN, 0};
    EXPECT_EQ(poll(&one, 1, 5000), 1);
    EXPECT_EQ(recv(packet, bytes, sizeof bytes, 0), 20 + 8 + 6);
    EXPECT_EQ(std::memcmp(bytes + 28, "packet", 6), 0);
    EXPECT_EQ(static_cast<unsigned char>(bytes[22]) << 8 | static_cast<unsigned char>(bytes[23]),
              4444);
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Netlink netlink;
  Raw raw;
  target::ready();
  target::wait_for_go();
  netlink.check();
  raw.check();
  target::finish();
}
