// Frames in and out of a link for a loop around poll(2): nothing here waits.
#pragma once

#include <functional>
#include <span>

#include "net/link.h"

namespace rfork::session {

class FramePump {
 public:
  /// Borrows `link`, after its handshake and whatever was said before.
  explicit FramePump(net::Link& link) : link_(link) {}

  /// Queues a frame whose body is `head` and then `body`.
  void put(net::FrameType type, std::span<const std::byte> head,
           std::span<const std::byte> body = {});
  /// Writes what can be written. Throws Refusal(connection_lost).
  void write();
  /// Reads what has come and calls `take` for each whole frame. False when the peer has closed
  /// between two frames. Throws Refusal(connection_lost).
  bool read(const std::function<void(net::FrameType, std::span<const std::byte>)>& take);

  size_t queued() const { return out_.size() - out_at_; }
  bool wants_write() const { return queued() > 0 || flushing_; }
  net::Link& link() { return link_; }

 private:
  net::Link& link_;
  Bytes out_;
  size_t out_at_ = 0;
  bool flushing_ = false;
  Bytes in_;
  size_t in_size_ = 0;
};

}  // namespace rfork::session
