// One connection to the other end, plain or TLS, as coroutines over asio.
//
// Frames go out and come in whole; the body of a DATA frame can also be read piecemeal, straight
// into the memory where it is to stay. At most one read and one write may be under way at a time.
//
// Reads and writes are tried first and waited for only when the kernel says so: while data flows
// there is no timer, no allocation and no trip through the event loop.
//
// Errors: Refusal(connection_lost) naming the peer when it closed, broke, sent what is no frame or
// let a deadline pass; Refusal(destination_refused) from the handshake. A coroutine is cancelled
// through asio's cancellation slots.
#pragma once

#include <array>
#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "net/frame.h"
#include "net/key.h"
#include "net/preface.h"
#include "net/tls.h"
#include "net/transport.h"
#include "net/wait.h"

namespace rfork::net {

class Connection {
 public:
  /// `peer` is its name in errors.
  Connection(asio::io_context& context, Transport transport, std::string peer);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const std::string& peer() const { return peer_; }
  /// Bytes sent and received in frames, before encryption.
  uint64_t wire_bytes() const { return wire_bytes_; }

  /// Exchanges prefaces and, with a key, makes TLS. Once, before anything else.
  asio::awaitable<void> handshake(Role role, const Key* key, Wait wait);
  /// What came in place of a preface, as far as it was read; empty: nothing else.
  std::span<const std::byte> not_a_preface() const { return not_a_preface_; }

  asio::awaitable<void> write_frame(FrameType type, std::span<const std::byte> body, Wait wait);
  /// The next frame's header. Its body must be read before the next header.
  asio::awaitable<FrameHeader> read_header(Wait wait);
  /// The next bytes of the body, at least one, as many as fit and have come. 0 only when the body
  /// is complete.
  asio::awaitable<size_t> read_body(std::span<std::byte> buffer, Wait wait);
  /// Header and whole body.
  asio::awaitable<Frame> read_frame(Wait wait);

  /// For who waits with poll(2) for several things at once: one step each, never waiting. What was
  /// read ahead comes first. A write is over when try_flush() is done.
  Io try_read_bytes(std::span<std::byte> buffer);
  Io try_write_bytes(std::span<const std::byte> bytes);
  Io try_flush();
  int input() const { return transport_.input(); }
  int output() const { return transport_.output(); }

  /// How much of the current body has not been read.
  size_t body_left() const { return body_left_; }
  /// Whether something came (bytes, or the end) that was not read.
  bool input_waiting() const;
  /// Whether a write was broken off inside a frame: nothing more can be said then.
  bool output_broken() const { return inside_write_; }
  /// After a last frame: says that nothing more will come, then reads and drops what the peer still
  /// sends until it closes or the time is over. Without it the kernel answers unread bytes with a
  /// reset, which can overtake the last frame.
  asio::awaitable<void> linger(std::chrono::milliseconds timeout);

 private:
  using Deadline = std::chrono::steady_clock::time_point;
  struct Bound {
    Deadline at;
    Wait wait;
  };

  Io try_read(std::span<std::byte> buffer);
  Io try_write(std::span<const std::byte> first, std::span<const std::byte> second);
  asio::awaitable<void> settle(Io io, Bound bound);
  asio::awaitable<size_t> read_some(std::span<std::byte> buffer, Bound bound);
  asio::awaitable<void> write_all(std::span<const std::byte> head, std::span<const std::byte> body,
                                  Bound bound);
  asio::awaitable<void> exchange_prefaces(Role role, Mode mode, Bound bound);
  asio::posix::stream_descriptor& descriptor_for(Io::State direction);
  [[noreturn]] void lose(std::string_view how) const;

  asio::io_context& context_;
  Transport transport_;
  std::string peer_;
  asio::posix::stream_descriptor input_;
  std::optional<asio::posix::stream_descriptor> output_;  ///< over pipes
  std::unique_ptr<TlsStream> tls_;
  std::vector<std::byte> not_a_preface_;
  std::array<std::byte, 4096> buffer_;  ///< headers and small bodies are read ahead into it
  size_t buffer_at_ = 0, buffer_end_ = 0;
  size_t body_left_ = 0;
  uint64_t wire_bytes_ = 0;
  bool inside_write_ = false;
};

}  // namespace rfork::net
