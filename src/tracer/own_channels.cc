#include "tracer/own_channels.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iterator>

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

}  // namespace

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

namespace {

/// Whether it is a unix socket, as far as we may look.
bool may_be_unix(const ChannelEnd& end) {
  const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  int family = AF_UNIX;
  socklen_t size = sizeof family;
  return !own || ::getsockopt(own.get(), SOL_SOCKET, SO_DOMAIN, &family, &size) != 0 ||
         family == AF_UNIX;
}

/// What the kernel tells of those that are unix sockets.
std::map<ino_t, UnixSocket> ask_about(pid_t pid, const std::map<ino_t, ChannelEnd>& sockets) {
  constexpr size_t kFew = 16;
  if (sockets.empty()) return {};
  const UnixDiag diag(pid);
  std::map<ino_t, UnixSocket> told;
  const bool many = sockets.size() > kFew;
  if (many) {
    std::set<ino_t> inodes;
    for (const auto& [inode, end] : sockets) inodes.insert(inode);
    told = diag.find(inodes);
  }
  for (const auto& [inode, end] : sockets) {
    if (told.contains(inode) || (many && !may_be_unix(end))) continue;
    if (auto socket = diag.ask(inode)) told.emplace(inode, *std::move(socket));
  }
  return told;
}

}  // namespace

bool other_end_closed(const ChannelEnd& end) {
  const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  if (!own) return false;
  const short sign = (end.flags & O_ACCMODE) == O_RDONLY ? POLLHUP : POLLERR;
  pollfd state{own.get(), 0, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & sign) != 0;
}

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

void OwnChannels::look_at(const std::vector<ChannelEnd>& ends, const std::set<ino_t>& known) {
  look_at_pipes(ends);
  look_at_sockets(ends);
  look_at_connections(ends);
  std::set<ino_t> inodes;
  for (const auto& [inode, channel] : channels_)
    if (!known.contains(inode)) inodes.insert(inode);
  if (inodes.empty()) return;
  const std::set<ino_t> held = held_by_others(inodes, same_);
  std::erase_if(channels_, [&](const auto& entry) {
    return held.contains(entry.first) || held.contains(entry.second.peer);
  });
}

std::set<ino_t> OwnChannels::inodes() const {
  std::set<ino_t> inodes;
  for (const auto& [inode, channel] : channels_) inodes.insert(inode);
  return inodes;
}

void OwnChannels::look_at_pipes(const std::vector<ChannelEnd>& ends) {
  struct Seen {
    bool read = false, written = false, standard = false;
    ChannelEnd first;
  };
  std::map<ino_t, Seen> pipes;
  for (const ChannelEnd& end : ends) {
    if (!S_ISFIFO(end.status.st_mode) || (end.flags & O_PATH) != 0) continue;
    const auto link = try_read_link(fmt::format("/proc/{}/fd/{}", end.pid, end.fd));
    if (!link || inode_in(*link) == 0) continue;  // a FIFO with a name: others may open it
    Seen& seen = pipes[end.status.st_ino];
    const int access = end.flags & O_ACCMODE;
    seen.read = seen.read || access != O_WRONLY;
    seen.written = seen.written || access != O_RDONLY;
    seen.standard = seen.standard || (end.pid == pid_ && end.fd <= STDERR_FILENO);
    if (seen.first.description == 0) seen.first = end;
  }
  for (const auto& [inode, seen] : pipes) {
    const bool both = seen.read && seen.written;
    // A standard stream is the caller's where the process goes on, and not one that has ended.
    const bool alone = closed_ends_ && !both && !seen.standard;
    if (both || (alone && other_end_closed(seen.first)))
      channels_[inode].first = seen.first.description;
  }
}

void OwnChannels::look_at_sockets(const std::vector<ChannelEnd>& ends) {
  std::map<ino_t, ChannelEnd> sockets;
  for (const ChannelEnd& end : ends) {
    if (S_ISSOCK(end.status.st_mode)) sockets.emplace(end.status.st_ino, end);
  }
  unix_sockets_ = ask_about(pid_, sockets);
  for (const auto& [inode, socket] : unix_sockets_) {
    const auto peer = sockets.find(socket.peer);
    if (peer == sockets.end()) continue;
    channels_[inode] = {0, socket.peer, peer->second.description, false,
                        sockets.at(inode).description};
  }
  look_at_waiting(sockets);
}

void OwnChannels::look_at_waiting(const std::map<ino_t, ChannelEnd>& sockets) {
  for (const auto& [listening, socket] : unix_sockets_) {
    for (const ino_t waiting : socket.waiting) {
      const auto own = sockets.find(waiting);
      if (own == sockets.end()) continue;
      channels_[waiting] = {0, listening, sockets.at(listening).description, true,
                            own->second.description};
    }
  }
}

void OwnChannels::look_at_connections(const std::vector<ChannelEnd>& ends) {
  std::vector<ChannelEnd> others;
  std::ranges::copy_if(ends, std::back_inserter(others), [&](const ChannelEnd& end) {
    return !unix_sockets_.contains(end.status.st_ino);
  });
  tcp_.look_at(others);
  for (const ChannelEnd& end : others) {
    const auto link = tcp_.links().find(end.status.st_ino);
    if (!S_ISSOCK(end.status.st_mode) || link == tcp_.links().end()) continue;
    const bool waits = link->second.way == TcpLink::Way::waiting;
    channels_[link->first] = {0, link->second.other_inode, link->second.other, waits,
                              end.description};
  }
}

const UnixSocket* OwnChannels::unix_socket(const ChannelEnd& end) const {
  const auto found = unix_sockets_.find(end.status.st_ino);
  return found == unix_sockets_.end() ? nullptr : &found->second;
}

uint32_t OwnChannels::peer_of(const ChannelEnd& end) const {
  const auto found = channels_.find(end.status.st_ino);
  return found == channels_.end() ? 0 : found->second.peer_description;
}

bool OwnChannels::waits(const ChannelEnd& end) const {
  const auto found = channels_.find(end.status.st_ino);
  return found != channels_.end() && found->second.waits;
}

std::vector<uint32_t> OwnChannels::waiting_at(const ChannelEnd& end) const {
  std::vector<uint32_t> waiting;
  const auto add = [&](ino_t inode) {
    const auto found = channels_.find(inode);
    if (found == channels_.end() || !found->second.waits ||
        found->second.peer != end.status.st_ino) {
      return;
    }
    waiting.push_back(found->second.description);
  };
  if (const UnixSocket* const told = unix_socket(end)) {
    for (const ino_t inode : told->waiting) add(inode);  // in the order of their connections
    return waiting;
  }
  for (const auto& [inode, link] : tcp_.links()) add(inode);
  return waiting;
}

const TcpLink* OwnChannels::tcp_link(const ChannelEnd& end) const {
  const auto found = tcp_.links().find(end.status.st_ino);
  if (found == tcp_.links().end() || !channels_.contains(found->first)) return nullptr;
  return &found->second;
}

void OwnChannels::describe_pipe(const ChannelEnd& end, Description& description) const {
  description.kind = Description::Kind::pipe;
  description.other = channels_.at(end.status.st_ino).first;
  const UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  const int capacity = own ? ::fcntl(own.get(), F_GETPIPE_SZ) : -1;
  description.capacity = capacity > 0 ? static_cast<uint64_t>(capacity) : 0;
}

void OwnChannels::read_pipe(const ChannelEnd& end, Description& description) const {
  if (description.other != description.id) return;
  UniqueFd own = duplicate_descriptor(end.pid, end.fd);
  int size = 0;
  if (own && ::ioctl(own.get(), FIONREAD, &size) == 0 && size == 0) return;
  // Who polls a pipe with one end is woken by another that comes and goes.
  const bool reads = own && (end.flags & O_ACCMODE) != O_WRONLY;
  const std::string path = fmt::format("/proc/{}/fd/{}", end.pid, end.fd);
  const UniqueFd reader = reads ? std::move(own) : open_or_throw(path, O_RDONLY | O_NONBLOCK);
  description.queued = peek_pipe(reader.get());
}

}  // namespace rfork::tracer
