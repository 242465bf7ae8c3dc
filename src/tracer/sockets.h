// What a socket is, asked of a duplicate of it: its addresses, options, filter, groups, and what is
// queued in it. Nothing of it changes, but for SO_PEEK_OFF while a queue is read.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"

namespace rfork::tracer {

/// All but what sock_diag(7) alone tells, and its messages. `pid`: a process of its network
/// namespace. nullopt: of a family or in a state in which it can't be made again: its other end
/// is elsewhere. `linked`: it is a TCP connection whose other end is known.
std::optional<image::Socket> describe_socket(int fd, pid_t pid, bool linked = false);

/// Of a connection whose other end is elsewhere: its addresses, and those options that aren't about
/// how its packets go.
image::Socket describe_relayed_socket(int fd);

/// "TCP at 10.0.0.2:4711, to 10.0.0.1:80", of any socket. Empty if nothing is known of it.
std::string socket_in_words(int fd);

/// Which directions of an internet socket are shut down: 1 it reads no more, 2 it writes no more. A
/// TCP connection that the other end has shut down reads no more once that is restored.
int32_t shut_directions(int fd, const image::Socket& socket);

/// Whether it is a TCP socket that is connected, or about to be, or that was closed by one end
/// only.
bool is_tcp_connection(int fd);

/// How many connections of a listening TCP socket nobody has accepted.
uint32_t not_accepted(int fd);

/// Bytes of memory that what is queued in it takes; not of a unix socket, whose senders pay.
uint64_t memory_queued(int fd);

/// Whether it has a filter that can't be read (of eBPF).
bool has_unreadable_filter(int fd);

/// Whether it shares a packet socket's traffic with others (PACKET_FANOUT).
bool is_in_fanout(int fd);

/// What can be received from it.
struct PeekedMessage {
  image::SocketMessage message;
  std::vector<UniqueFd> passed;  ///< the descriptors that are on their way in it
};

/// All that is queued, which stays there. nullopt: it could not be read whole.
std::optional<std::vector<PeekedMessage>> peek_messages(int fd, const image::Socket& socket);

}  // namespace rfork::tracer
