// The line between the daemon and one of its workers: a pair of SOCK_SEQPACKET sockets.
//
// A packet is one type byte and one CBOR body (messages.h), and may carry a descriptor. The worker
// asks and waits, with a deadline; the daemon never waits: it answers at once or, for RESOLVE and
// WAIT, when there is an answer. The end of the channel tells each side that the other has ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>

#include "base/io.h"
#include "base/unique_fd.h"

namespace rfork::session {

enum class PacketType : uint8_t {
  // Worker to daemon.
  authenticated = 1,  ///< the peer has the key; empty
  announce,           ///< Announcement; answered by `registered` or `refused`
  standing,           ///< Standing and a pidfd; answered by `done`
  end_pipe,   ///< empty, and loader::Restore::end_pipe(); before `standing`, where there is one
  may_go,     ///< empty; answered by `done` or `refused`
  let_go,     ///< empty: the child runs
  attends,    ///< empty: this worker stays with its child
  changed,    ///< ChangeReport
  signalled,  ///< SignalReport
  lost,       ///< LostReport
  used,       ///< UseReport
  failed,     ///< empty: the child never ran, and has been ended
  resolve,    ///< MoveQuestion; answered by `resolution`
  list,       ///< ListQuestion; answered by `children`
  kill,       ///< KillOrder; answered by `done` or `refused`
  wait,       ///< ChildQuestion; answered by `child` when it has ended, or `refused`
  look,       ///< ChildQuestion; answered by `child`, or `refused`
  remove,     ///< ChildQuestion; answered by `done` or `refused`
  logs,       ///< ChildQuestion; answered by `child` and the log's descriptor, or `refused`
  received,   ///< empty: the image is here, whole and checked
  events,     ///< EventsAfter; answered by `happened`, or `refused`
  // Daemon to worker.
  registered = 64,  ///< ChildInfo and the log's descriptor
  done,             ///< empty
  refused,          ///< RefusedMessage
  resolution,       ///< Resolution
  children,         ///< ListPart
  child,            ///< ChildInfo
  happened,         ///< EventsPart
  aborted,          ///< AbortMessage, unasked: the restore must end
};

struct Packet {
  PacketType type = PacketType::done;
  Bytes body;
  UniqueFd descriptor;
};

/// The other side has ended.
class ChannelClosed : public std::runtime_error {
 public:
  ChannelClosed() : std::runtime_error("the daemon's process has ended") {}
};

inline constexpr size_t kMaxPacket = 64u << 10;

class Channel {
 public:
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.get(); }
  /// Throws ChannelClosed, and Error when it would have to wait: the other side reads promptly or
  /// is broken.
  void send(PacketType type, std::span<const std::byte> body = {}, int descriptor = -1);
  /// The same, but waits until there is room.
  void send_patiently(PacketType type, std::span<const std::byte> body);
  /// nullopt when nothing came within `timeout`. Throws ChannelClosed.
  std::optional<Packet> receive(std::chrono::milliseconds timeout);

 private:
  bool try_send(PacketType type, std::span<const std::byte> body, int descriptor);

  UniqueFd socket_;
};

}  // namespace rfork::session
