#include "tracer/own_channels.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/unix_diag.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/io.h"
#include "tracer/inventory.h"

namespace rfork::tracer {

using image::Description;

namespace {

/// The inode in "pipe:[4711]" or "socket:[4711]"; 0: it is something else.
ino_t inode_in(const std::string& link) {
  if (!link.starts_with("pipe:[") && !link.starts_with("socket:[")) return 0;
  return std::strtoull(link.c_str() + link.find('[') + 1, nullptr, 10);
}

/// Those of `inodes` that a process not in `same` has open too, as far as we may look.
std::set<ino_t> held_by_others(const std::set<ino_t>& inodes, const std::set<pid_t>& same) {
  std::set<ino_t> held;
  for (const int pid : try_list_numbers("/proc").value_or(std::vector<int>())) {
    if (same.contains(pid) || pid == ::getpid()) continue;
    const std::string directory = fmt::format("/proc/{}/fd", pid);
    for (const int fd : try_list_numbers(directory).value_or(std::vector<int>())) {
      const auto link = try_read_link(fmt::format("{}/{}", directory, fd));
      const ino_t inode = link ? inode_in(*link) : 0;
      if (inode != 0 && inodes.contains(inode)) held.insert(inode);
    }
  }
  return held;
}

struct UnixSocket {
  uint8_t type = 0;
  ino_t peer = 0;
  uint8_t shut = 0;
};

/// Asks the kernel for the unix socket of that inode (sock_diag(7)). nullopt: it is none, or of
/// another network namespace, or the kernel can't tell.
std::optional<UnixSocket> ask_for_unix_socket(ino_t inode) {
  const UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink) return std::nullopt;
  struct {
    nlmsghdr header{};
    unix_diag_req request{};
  } question;
  question.header.nlmsg_len = sizeof question;
  question.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  question.header.nlmsg_flags = NLM_F_REQUEST;
  question.request.sdiag_family = AF_UNIX;
  question.request.udiag_states = ~0u;
  question.request.udiag_ino = static_cast<uint32_t>(inode);
  question.request.udiag_show = UDIAG_SHOW_PEER;
  question.request.udiag_cookie[0] = question.request.udiag_cookie[1] = ~0u;
  alignas(nlmsghdr) std::byte answer[4096];
  if (::send(netlink.get(), &question, sizeof question, 0) != sizeof question) return std::nullopt;
  const ssize_t size = ::recv(netlink.get(), answer, sizeof answer, 0);
  auto* const message = reinterpret_cast<nlmsghdr*>(answer);
  if (size < 0 || !NLMSG_OK(message, static_cast<size_t>(size)) ||
      message->nlmsg_type != SOCK_DIAG_BY_FAMILY) {
    return std::nullopt;
  }
  auto* const socket = static_cast<unix_diag_msg*>(NLMSG_DATA(message));
  UnixSocket found;
  found.type = socket->udiag_type;
  auto left = static_cast<int>(message->nlmsg_len - NLMSG_LENGTH(sizeof *socket));
  for (auto* attribute = reinterpret_cast<rtattr*>(socket + 1); RTA_OK(attribute, left);
       attribute = RTA_NEXT(attribute, left)) {
    if (attribute->rta_type == UNIX_DIAG_PEER) {
      uint32_t peer = 0;
      std::memcpy(&peer, RTA_DATA(attribute), sizeof peer);
      found.peer = peer;
    }
    if (attribute->rta_type == UNIX_DIAG_SHUTDOWN) {
      found.shut = *static_cast<uint8_t*>(RTA_DATA(attribute));
    }
  }
  return found;
}

/// A copy of what is in a stream socket, where it stays. nullopt: descriptors are on their way in
/// it.
std::optional<Bytes> peek_socket(int fd) {
  int size = 0;
  if (::ioctl(fd, SIOCINQ, &size) != 0) throw_errno("ioctl(SIOCINQ)");
  Bytes bytes(static_cast<size_t>(size));
  iovec vector{bytes.data(), bytes.size()};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(253 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n =
      size == 0 ? 0 : ::recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) throw_errno("recvmsg(MSG_PEEK)");
  bool carries_descriptors = false;
  for (cmsghdr* one = size == 0 ? nullptr : CMSG_FIRSTHDR(&message); one != nullptr;
       one = CMSG_NXTHDR(&message, one)) {
    if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS) continue;
    carries_descriptors = true;
    const size_t count = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int passed;
      std::memcpy(&passed, CMSG_DATA(one) + i * sizeof passed, sizeof passed);
      ::close(passed);
    }
  }
  // A peek stops where descriptors are attached.
  if (carries_descriptors || n != size) return std::nullopt;
  return bytes;
}

}  // namespace

// A read gives a page at most, and not more than a packet.
std::vector<Bytes> peek_pipe(int fd) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw_errno("pipe2");
  const UniqueFd reader(ends[0]), writer(ends[1]);
  const int capacity = ::fcntl(fd, F_GETPIPE_SZ);
  if (::fcntl(writer.get(), F_SETPIPE_SZ, capacity) < 0) throw_errno("fcntl(F_SETPIPE_SZ)");
  const ssize_t copied = ::tee(fd, writer.get(), static_cast<size_t>(capacity), SPLICE_F_NONBLOCK);
  if (copied < 0 && errno != EAGAIN) throw_errno("tee", "a pipe");
  std::vector<Bytes> queued;
  Bytes part(4096);
  for (ssize_t n; (n = ::read(reader.get(), part.data(), part.size())) > 0;) {
    queued.emplace_back(part.begin(), part.begin() + n);
  }
  return queued;
}

void OwnChannels::look_at(const std::vector<ChannelEnd>& ends) {
  look_at_pipes(ends);
  look_at_sockets(ends);
  std::set<ino_t> inodes;
  for (const auto& [inode, channel] : channels_) inodes.insert(inode);
  if (inodes.empty()) return;
  const std::set<ino_t> held = held_by_others(inodes, same_);
  std::erase_if(channels_, [&](const auto& entry) {
    return held.contains(entry.first) || held.contains(entry.second.peer);
  });
}

void OwnChannels::look_at_pipes(const std::vector<ChannelEnd>& ends) {
  struct Seen {
    bool read = false, written = false;
    uint32_t first = 0;
  };
  std::map<ino_t, Seen> pipes;
  for (const ChannelEnd& end : ends) {
    if (!S_ISFIFO(end.status.st_mode)) continue;
    const auto link = try_read_link(fmt::format("/proc/{}/fd/{}", pid_, end.fd));
    if (!link || inode_in(*link) == 0) continue;  // a FIFO with a name: others may open it
    Seen& seen = pipes[end.status.st_ino];
    const int access = end.flags & O_ACCMODE;
    seen.read = seen.read || access != O_WRONLY;
    seen.written = seen.written || access != O_RDONLY;
    if (seen.first == 0) seen.first = end.description;
  }
  for (const auto& [inode, seen] : pipes) {
    if (seen.read && seen.written) channels_[inode].first = seen.first;
  }
}

void OwnChannels::look_at_sockets(const std::vector<ChannelEnd>& ends) {
  std::map<ino_t, uint32_t> sockets;
  for (const ChannelEnd& end : ends) {
    if (S_ISSOCK(end.status.st_mode)) sockets.emplace(end.status.st_ino, end.description);
  }
  for (const auto& [inode, description] : sockets) {
    const auto socket = ask_for_unix_socket(inode);
    if (!socket || socket->type != SOCK_STREAM || !sockets.contains(socket->peer)) continue;
    Channel& channel = channels_[inode];
    channel.peer = socket->peer;
    channel.peer_description = sockets.at(socket->peer);
    channel.shut = socket->shut;
  }
}

void OwnChannels::describe(const ChannelEnd& end, Description& description) const {
  const Channel& channel = channels_.at(end.status.st_ino);
  if (channel.peer != 0) {
    description.kind = Description::Kind::socket;
    description.other = channel.peer_description;
    description.shut = channel.shut;
    return;
  }
  description.kind = Description::Kind::pipe;
  description.other = channel.first;
  const UniqueFd own = duplicate_descriptor(pid_, end.fd);
  const int capacity = own ? ::fcntl(own.get(), F_GETPIPE_SZ) : -1;
  description.capacity = capacity > 0 ? static_cast<uint64_t>(capacity) : 0;
}

bool OwnChannels::read_queue(const ChannelEnd& end, Description& description) const {
  if (description.kind == Description::Kind::pipe) {
    if (description.other != description.id) return true;
    const std::string path = fmt::format("/proc/{}/fd/{}", pid_, end.fd);
    const UniqueFd reader = open_or_throw(path, O_RDONLY | O_NONBLOCK);
    description.queued = peek_pipe(reader.get());
    return true;
  }
  const UniqueFd own = duplicate_descriptor(pid_, end.fd);
  if (!own) throw_errno("pidfd_getfd", std::to_string(end.fd));
  auto bytes = peek_socket(own.get());
  if (!bytes) return false;
  if (!bytes->empty()) description.queued.push_back(*std::move(bytes));
  return true;
}

}  // namespace rfork::tracer
