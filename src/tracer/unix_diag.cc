#include "tracer/unix_diag.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#include <cstring>
#include <memory>

#include "tracer/diag_socket.h"

namespace rfork::tracer {

namespace {

void take(const rtattr& attribute, UnixSocket& found) {
  const void* const data = RTA_DATA(&attribute);
  const size_t size = RTA_PAYLOAD(&attribute);
  if (attribute.rta_type == UNIX_DIAG_PEER && size >= sizeof(uint32_t)) {
    uint32_t peer = 0;
    std::memcpy(&peer, data, sizeof peer);
    found.peer = peer;
    found.peer_told = true;
  } else if (attribute.rta_type == UNIX_DIAG_SHUTDOWN && size >= 1) {
    std::memcpy(&found.shut, data, 1);
  } else if (attribute.rta_type == UNIX_DIAG_VFS && size >= sizeof(unix_diag_vfs)) {
    unix_diag_vfs file{};
    std::memcpy(&file, data, sizeof file);
    found.file = file.udiag_vfs_ino;
  } else if (attribute.rta_type == UNIX_DIAG_ICONS) {
    for (size_t i = 0; i < size / sizeof(uint32_t); ++i) {
      uint32_t inode = 0;
      std::memcpy(&inode, static_cast<const std::byte*>(data) + i * sizeof inode, sizeof inode);
      found.waiting.push_back(inode);
    }
  } else if (attribute.rta_type == UNIX_DIAG_RQLEN && size >= sizeof(unix_diag_rqlen)) {
    unix_diag_rqlen lengths{};
    std::memcpy(&lengths, data, sizeof lengths);
    found.queued = lengths.udiag_rqueue;
    found.limit = lengths.udiag_wqueue;
  }
}

/// As large as the kernel makes one part of an answer.
struct Answer {
  alignas(nlmsghdr) std::byte data[32768];
};

UnixSocket read(const nlmsghdr& message) {
  const auto* const socket = static_cast<const unix_diag_msg*>(NLMSG_DATA(&message));
  UnixSocket found;
  found.type = socket->udiag_type;
  found.state = socket->udiag_state;
  auto left = static_cast<int>(message.nlmsg_len - NLMSG_LENGTH(sizeof *socket));
  for (const auto* attribute = reinterpret_cast<const rtattr*>(socket + 1); RTA_OK(attribute, left);
       attribute = RTA_NEXT(attribute, left)) {
    take(*attribute, found);
  }
  return found;
}

}  // namespace

UnixDiag::UnixDiag(pid_t pid) : netlink_(diag_socket(pid)) {}

bool UnixDiag::send(uint16_t flags, ino_t inode) const {
  struct {
    nlmsghdr header{};
    unix_diag_req request{};
  } question;
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST | flags;
  question.request.sdiag_family = AF_UNIX;
  question.request.udiag_states = ~0u;
  question.request.udiag_ino = static_cast<uint32_t>(inode);
  question.request.udiag_show =
      UDIAG_SHOW_PEER | UDIAG_SHOW_VFS | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN;
  question.request.udiag_cookie[0] = question.request.udiag_cookie[1] = ~0u;
  return netlink_ && ::send(netlink_.get(), &question, sizeof question, 0) == sizeof question;
}

std::optional<UnixSocket> UnixDiag::ask(ino_t inode) const {
  Answer answer;
  if (!send(0, inode)) return std::nullopt;
  const ssize_t size = ::recv(netlink_.get(), answer.data, sizeof answer.data, 0);
  const auto* const message = reinterpret_cast<const nlmsghdr*>(answer.data);
  if (size < 0 || !NLMSG_OK(message, static_cast<size_t>(size)) ||
      message->nlmsg_type != SOCK_DIAG_BY_FAMILY) {
    return std::nullopt;
  }
  return read(*message);
}

std::map<ino_t, UnixSocket> UnixDiag::find(const std::set<ino_t>& wanted) const {
  std::map<ino_t, UnixSocket> found;
  const auto answer = std::make_unique<Answer>();
  if (!send(NLM_F_DUMP, 0)) return found;
  for (;;) {
    const ssize_t size = ::recv(netlink_.get(), answer->data, sizeof answer->data, 0);
    if (size <= 0) return found;
    auto left = static_cast<size_t>(size);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(answer->data);
         NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY) return found;  // its end
      const auto* const socket = static_cast<const unix_diag_msg*>(NLMSG_DATA(message));
      if (wanted.contains(socket->udiag_ino)) found.emplace(socket->udiag_ino, read(*message));
    }
  }
}

}  // namespace rfork::tracer
