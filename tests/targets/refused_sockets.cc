// A socket with something that can't be read, named by the argument: refused, and unharmed by that.
// Its number is written to FOLDER/number.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <sys/mman.h>

#include <memory>

#include "sockets.h"

namespace {

sockaddr_in loopback(uint16_t port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  name.sin_port = port;
  return name;
}

int make_bound(sockaddr_in& name, int type = SOCK_DGRAM) {
  const int fd = MUST(socket(AF_INET, type | SOCK_NONBLOCK, 0));
  name = loopback(0);
  MUST(bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  socklen_t size = sizeof name;
  MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size));
  return fd;
}

void connect_to(int fd, const sockaddr_in& name) {
  MUST(connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name));
}

void wait_for(int fd, short events) {
  pollfd one{fd, events, 0};
  EXPECT_EQ(poll(&one, 1, 5000), 1);
  EXPECT((one.revents & (events | POLLERR)) != 0);
}

class Case {
 public:
  virtual ~Case() = default;
  virtual void check() = 0;
  int fd = -1;  ///< that is refused
};

/// Whose datagram nobody wanted, with another datagram in it that can be read after the error.
struct UdpError : Case {
  UdpError() {
    sockaddr_in nobody, name;
    const int other = make_bound(nobody);
    fd = make_bound(name);
    connect_to(fd, nobody);
    connect_to(other, name);
    sockets::say(other, "early");
    close(other);
    sockets::say(fd, "to nobody");
    wait_for(fd, POLLERR);
  }
  void check() override {
    EXPECT_TEXT(sockets::receive(fd), "-ECONNREFUSED");
    EXPECT_TEXT(sockets::receive(fd), "early");
    EXPECT_TEXT(sockets::receive(fd), "-EAGAIN");
  }
};

/// The same where it is told of in the error queue.
struct ErrorQueue : Case {
  ErrorQueue() {
    sockaddr_in nobody;
    close(make_bound(nobody));
    fd = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    sockets::set(fd, IPPROTO_IP, IP_RECVERR, 1);
    EXPECT_EQ(sendto(fd, "x", 1, 0, reinterpret_cast<const sockaddr*>(&nobody), sizeof nobody), 1);
    wait_for(fd, POLLERR);
  }
  void check() override {
    EXPECT_EQ(sockets::get(fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
    char byte, control[512];
    iovec vector{&byte, 1};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    EXPECT_EQ(recvmsg(fd, &message, MSG_ERRQUEUE), 1);
    EXPECT_EQ(byte, 'x');
  }
};

/// A packet that can be read after the error that the other end has left.
struct SeqpacketError : Case {
  SeqpacketError() {
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair));
    fd = pair[0];
    sockets::say(pair[0], "unread");
    sockets::say(pair[1], "left");
    close(pair[1]);
  }
  void check() override {
    EXPECT_TEXT(sockets::receive(fd), "-ECONNRESET");
    EXPECT_TEXT(sockets::receive(fd), "left");
  }
};

/// The beginning of a datagram, by option or by flag.
struct Cork : Case {
  explicit Cork(bool option) : option_(option) {
    sockaddr_in name;
    receiver_ = make_bound(name);
    fd = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    connect_to(fd, name);
    if (option) sockets::set(fd, IPPROTO_UDP, UDP_CORK, 1);
    EXPECT_EQ(send(fd, "part 1, ", 8, option ? 0 : MSG_MORE), 8);
  }
  void check() override {
    EXPECT_TEXT(sockets::receive(receiver_), "-EAGAIN");
    sockets::say(fd, "part 2");
    if (option_) sockets::set(fd, IPPROTO_UDP, UDP_CORK, 0);
    EXPECT_TEXT(sockets::receive(receiver_), "part 1, part 2");
  }

 private:
  bool option_;
  int receiver_;
};

/// A ring for packets, mapped or not, or whose socket is closed.
struct Ring : Case {
  Ring(bool mapped, bool closed) : mapped_(mapped) {
    fd = socket(AF_PACKET, SOCK_RAW, htons(kProtocol));
    if (fd < 0) target::skip("no packet sockets here: %s", std::strerror(errno));
    const tpacket_req request{kSize, 1, 2048, kSize / 2048};
    MUST(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request));
    if (mapped) memory_ = target::map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    if (!closed) return;
    close(fd);
    fd = -1;
  }
  void check() override {
    if (fd < 0) return;
    if (!mapped_) memory_ = target::map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    const int sender = MUST(socket(AF_PACKET, SOCK_DGRAM, 0));
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_protocol = htons(kProtocol);
    to.sll_ifindex = int(if_nametoindex("lo"));
    to.sll_halen = 6;
    EXPECT_EQ(sendto(sender, "packet", 6, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to), 6);
    wait_for(fd, POLLIN);
    EXPECT((static_cast<volatile tpacket_hdr*>(memory_)->tp_status & TP_STATUS_USER) != 0);
  }

 private:
  static constexpr unsigned kSize = 16384, kProtocol = 0x88b6;  // for experiments
  bool mapped_;
  void* memory_ = nullptr;
};

std::unique_ptr<Case> make(const std::string& kind) {
  if (kind == "error") return std::make_unique<UdpError>();
  if (kind == "error-queue") return std::make_unique<ErrorQueue>();
  if (kind == "packet-error") return std::make_unique<SeqpacketError>();
  if (kind == "cork") return std::make_unique<Cork>(true);
  if (kind == "more") return std::make_unique<Cork>(false);
  if (kind == "ring") return std::make_unique<Ring>(false, false);
  if (kind == "mapped-ring") return std::make_unique<Ring>(true, false);
  if (kind == "closed-ring") return std::make_unique<Ring>(true, true);
  target::fail("no such kind: %s", kind.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv, 1);
  const auto one = make(target::argument(0));
  const int note =
      MUST(open(target::path("number").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  const std::string number = std::to_string(one->fd);
  EXPECT_EQ(write(note, number.data(), number.size()), number.size());
  close(note);
  target::ready();
  target::wait_for_go();
  one->check();
  target::finish();
}
