// Pipes and sockets that lead from the process to itself: programs wake their own threads and event
// loops with them. Nobody else is at the other end, so they are carried with what is in them. So
// are those whose other end is closed: the output of a child that has ended.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <map>
#include <set>
#include <vector>

#include "image/model.h"
#include "tracer/channel_end.h"
#include "tracer/tcp_connections.h"
#include "tracer/unix_diag.h"

namespace rfork::tracer {

/// A copy of what is in the pipe or FIFO `fd`, which stays there: of one in packet mode a packet
/// each. Throws Error.
std::vector<Bytes> peek_pipe(int fd);
/// Whether nobody has the other end of this pipe or FIFO any more: pipe(7), poll(2). What the
/// kernel doesn't say for sure isn't taken for it.
bool other_end_closed(const ChannelEnd& end);

/// Those of `inodes`, of pipes and sockets, that a process not in `same` has open too, as far as we
/// may look.
std::set<ino_t> held_by_others(const std::set<ino_t>& inodes, const std::set<pid_t>& same);

class OwnChannels {
 public:
  /// `same`: processes that may hold the ends too, `pid` itself and a copy of it that was made for
  /// us. `closed_ends`: an end of a pipe whose other end nobody has is the process's own.
  OwnChannels(pid_t pid, std::set<pid_t> same, bool closed_ends)
      : pid_(pid), same_(std::move(same)), closed_ends_(closed_ends), tcp_(pid) {}

  pid_t pid() const { return pid_; }
  /// All of the process's pipes and sockets; finds out which of them lead to itself. That nobody
  /// else has the `known` ones was found before, when the process did not have to wait for it.
  void look_at(const std::vector<ChannelEnd>& ends, const std::set<ino_t>& known);
  std::set<ino_t> inodes() const;
  bool has_pipe(const ChannelEnd& end) const {
    return S_ISFIFO(end.status.st_mode) && channels_.contains(end.status.st_ino);
  }
  /// What there is of a pipe's end but its queue.
  void describe_pipe(const ChannelEnd& end, image::Description& description) const;
  /// What is queued; the process is stopped.
  void read_pipe(const ChannelEnd& end, image::Description& description) const;

  /// What sock_diag(7) tells; nullptr: it is no unix socket, or nothing is told.
  const UnixSocket* unix_socket(const ChannelEnd& end) const;
  /// The description of the process's own that a unix socket is connected to, or that listens and
  /// hasn't accepted it; 0: none, or others have one of the two too.
  uint32_t peer_of(const ChannelEnd& end) const;
  /// Whether a unix socket waits for the other to accept it.
  bool waits(const ChannelEnd& end) const;
  /// The descriptions whose connections to this listening socket wait to be accepted, as far as
  /// they are the process's own.
  std::vector<uint32_t> waiting_at(const ChannelEnd& end) const;

  /// nullptr: it is no TCP connection of the process with itself, or others have one of its ends
  /// too.
  const TcpLink* tcp_link(const ChannelEnd& end) const;
  const TcpConnections& tcp() const { return tcp_; }

 private:
  struct Channel {
    uint32_t first = 0;  ///< of a pipe: the description that carries its contents
    ino_t peer = 0;      ///< of a socket
    uint32_t peer_description = 0;
    bool waits = false;        ///< `peer` listens
    uint32_t description = 0;  ///< of a socket
  };

  void look_at_pipes(const std::vector<ChannelEnd>& ends);
  void look_at_sockets(const std::vector<ChannelEnd>& ends);
  void look_at_waiting(const std::map<ino_t, ChannelEnd>& sockets);
  void look_at_connections(const std::vector<ChannelEnd>& ends);

  pid_t pid_;
  std::set<pid_t> same_;
  bool closed_ends_;
  std::map<ino_t, Channel> channels_;
  std::map<ino_t, UnixSocket> unix_sockets_;
  TcpConnections tcp_;
};

}  // namespace rfork::tracer
