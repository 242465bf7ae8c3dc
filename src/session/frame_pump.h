// Frames in and out of a link for a loop around poll(2): nothing here waits. A link that is lost
// can be replaced by another one, and then no frame is lost or comes twice: each direction is
// numbered by its bytes, and what the other side hasn't confirmed is kept.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/byte_queue.h"
#include "net/link.h"

namespace rfork::session {

class FramePump {
 public:
  using Take = std::function<void(net::FrameType, std::span<const std::byte>)>;

  /// Borrows `link`, after its handshake and whatever was said before.
  explicit FramePump(net::Link& link) : link_(&link) {}

  /// Queues a frame whose body is `head` and then `body`.
  void put(net::FrameType type, std::span<const std::byte> head,
           std::span<const std::byte> body = {});
  /// Room for `most` bytes of a body behind a head of `head_size`, for a put_filled() that comes
  /// next, if it comes: a source is read straight into it.
  std::span<std::byte> body_room(size_t head_size, size_t most);
  /// Queues a frame whose body is `head` and then the first `size` bytes of that room.
  void put_filled(net::FrameType type, std::span<const std::byte> head, size_t size);
  /// Why the link is lost; nothing as long as it isn't.
  using Loss = std::optional<std::string>;
  /// Writes what can be written.
  Loss write();
  /// Reads what has come and calls `take` for each whole frame; a Refusal that it throws is a loss.
  Loss read(const Take& take);
  /// Tells the peer what has come, which is else told every 64 KiB: it waits for nothing but that.
  void confirm();

  /// Goes on over `link`, borrowed, which the peer passes to its resume() too: both tell how much
  /// has come, and what is missing goes again. Waits. Throws Refusal(connection_lost).
  void resume(net::Link& link, net::Wait wait);

  /// Frees the buffers that are empty.
  void give_memory_back();

  /// Bytes that have not been written yet.
  size_t queued() const { return out_.size() - sent_; }
  bool wants_write() const { return queued() > 0 || flushing_; }
  /// Whether all has come that was put.
  bool all_confirmed() const { return out_.empty(); }
  net::Link& link() { return *link_; }

 private:
  void write_some();
  void read_some(const Take& take);
  void take_frames(const Take& take);
  void take_confirmed(uint64_t position);

  net::Link* link_;
  ByteQueue out_;           ///< what the peer hasn't confirmed
  size_t sent_ = 0;         ///< of out_
  uint64_t confirmed_ = 0;  ///< position of out_, bytes since the first frame
  bool flushing_ = false;
  ByteQueue in_;
  uint64_t received_ = 0;  ///< bytes of whole frames
  uint64_t told_ = 0;      ///< of them, to the peer
};

}  // namespace rfork::session
