#include "session/channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace rfork::session {

namespace {

/// Room for one descriptor.
union ControlBuffer {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int))];
};

UniqueFd descriptor_of(msghdr& message) {
  UniqueFd descriptor;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
    descriptor.reset(fd);
  }
  return descriptor;
}

}  // namespace

/// Whether there was room.
bool Channel::try_send(PacketType type, std::span<const std::byte> body, int descriptor) {
  auto type_byte = static_cast<std::byte>(type);
  iovec parts[2] = {{&type_byte, 1}, {const_cast<std::byte*>(body.data()), body.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  ControlBuffer control{};
  if (descriptor >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    cmsghdr* const c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof descriptor);
    std::memcpy(CMSG_DATA(c), &descriptor, sizeof descriptor);
  }
  ssize_t n;
  do {
    n = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return true;
  if (errno == EAGAIN) return false;
  if (errno == EPIPE || errno == ECONNRESET) throw ChannelClosed();
  throw_errno("sendmsg", "between daemon and worker");
}

void Channel::send(PacketType type, std::span<const std::byte> body, int descriptor) {
  if (!try_send(type, body, descriptor)) {
    throw Error("sendmsg", EAGAIN, "between daemon and worker");
  }
}

void Channel::send_patiently(PacketType type, std::span<const std::byte> body) {
  while (!try_send(type, body, -1)) {
    pollfd room{socket_.get(), POLLOUT, 0};
    if (::poll(&room, 1, -1) < 0 && errno != EINTR) {
      throw_errno("poll", "between daemon and worker");
    }
  }
}

std::optional<Packet> Channel::receive(std::chrono::milliseconds timeout) {
  pollfd input{socket_.get(), POLLIN, 0};
  const int ready = ::poll(&input, 1, static_cast<int>(timeout.count()));
  if (ready < 0 && errno != EINTR) throw_errno("poll", "between daemon and worker");
  if (ready <= 0) return std::nullopt;

  Packet packet;
  packet.body.resize(kMaxPacket);
  std::byte type{};
  iovec parts[2] = {{&type, 1}, {packet.body.data(), packet.body.size()}};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  const ssize_t n = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  if (n == 0 || (n < 0 && errno == ECONNRESET)) throw ChannelClosed();
  if (n < 0) throw_errno("recvmsg", "between daemon and worker");
  packet.descriptor = descriptor_of(message);
  if ((message.msg_flags & MSG_TRUNC) != 0) {
    throw Error("recvmsg", EMSGSIZE, "between daemon and worker");
  }
  packet.type = static_cast<PacketType>(type);
  packet.body.resize(static_cast<size_t>(n) - 1);
  return packet;
}

}  // namespace rfork::session
