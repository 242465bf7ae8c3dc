#include "tracer/socket_obstacles.h"

#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "tracer/sockets.h"

namespace rfork::tracer {

using image::Socket;

namespace {

/// Of a unix stream or seqpacket socket it stands behind what is queued, or nothing is, and tells
/// only that the other end has left something unread.
bool error_is_carried(int fd, const Socket& socket) {
  if (socket.family != AF_UNIX || socket.type == SOCK_DGRAM) return false;
  int queued = 0;
  return socket.type == SOCK_STREAM || (::ioctl(fd, FIONREAD, &queued) == 0 && queued == 0);
}

int bytes_to_go(int fd) {
  int size = 0;
  return ::ioctl(fd, SIOCOUTQ, &size) == 0 ? size : 0;
}

/// Whether it has the beginning of a datagram (UDP_CORK, MSG_MORE): all it pays for once the
/// devices have sent the rest.
bool has_beginning(int fd, const Socket& socket, bool stopped) {
  using std::chrono::milliseconds;
  const bool internet = socket.family == AF_INET || socket.family == AF_INET6;
  if (!internet || (socket.type != SOCK_DGRAM && socket.type != SOCK_RAW)) return false;
  const int first = bytes_to_go(fd);
  if (first == 0) return false;
  const milliseconds patience(stopped ? 200 : 20);
  const auto end = std::chrono::steady_clock::now() + patience;
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(1));
    const int now = bytes_to_go(fd);
    // While the process runs it may be sending all the time.
    if (now == 0 || (!stopped && now != first)) return false;
  }
  return true;
}

/// Asks for a ring of blocks without a size, which there can't be: EINVAL, but EBUSY where there is
/// a ring already.
bool has_ring(int fd) {
  for (const int option : {PACKET_RX_RING, PACKET_TX_RING}) {
    tpacket_req3 request{};
    request.tp_block_nr = 1;
    if (::setsockopt(fd, SOL_PACKET, option, &request, sizeof request) != 0 && errno == EBUSY) {
      return true;
    }
  }
  return false;
}

}  // namespace

bool has_error(int fd) {
  pollfd state{fd, 0, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & POLLERR) != 0;
}

SocketObstacle socket_obstacle(int fd, const Socket& socket, bool stopped) {
  if (has_unreadable_filter(fd)) return {"with an eBPF filter, which can't be read"};
  if (socket.family == AF_PACKET && is_in_fanout(fd)) {
    return {"that shares what comes with others (PACKET_FANOUT)"};
  }
  if (socket.family == AF_PACKET && has_ring(fd)) {
    return {"with a ring that packets are read from or written to (PACKET_RX_RING)"};
  }
  if (socket.error && !error_is_carried(fd, socket)) {
    const bool stream = socket.type == SOCK_STREAM;
    return {stream ? "with an error that the process hasn't asked for yet"
                   : "with an error, or a message in its error queue, that the process hasn't "
                     "asked for yet",
            "when it has"};
  }
  if (has_beginning(fd, socket, stopped)) {
    return {"with the beginning of a datagram that isn't sent yet (UDP_CORK, MSG_MORE)", "later"};
  }
  if (socket.family == AF_NETLINK && memory_queued(fd) != 0) {
    return {"with messages that the process hasn't read yet", "when it has"};
  }
  return {};
}

}  // namespace rfork::tracer
