// A connection for code that has nothing else to do while it waits: a ptracer, a worker, a command.
//
// The coroutines of Connection behind synchronous calls. Each call runs its own event loop until
// its coroutine is through, and asks `interrupted` every 50 ms meanwhile. No asio type shows here,
// so that the rest of the project neither sees nor compiles any.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "net/address.h"
#include "net/frame.h"
#include "net/key.h"
#include "net/preface.h"
#include "net/transport.h"
#include "net/wait.h"

namespace rfork::net {

class Link {
 public:
  using Interrupted = std::function<bool()>;

  /// Connects to a daemon, or starts one over ssh; the handshake is a call of its own, and over ssh
  /// waits for the log-in too. Errors of every call: see connection.h; and Refusal(interrupted).
  Link(const Address& address, Wait wait, Interrupted interrupted);
  /// Over what is connected already. `peer` is its name in errors.
  Link(Transport transport, std::string peer, Interrupted interrupted);
  ~Link();
  Link(Link&&) noexcept;
  Link& operator=(Link&&) noexcept;

  /// `key` may be null: plain.
  void handshake(Role role, const Key* key, Wait wait);
  void write(FrameType type, std::span<const std::byte> body, Wait wait);
  Frame read(Wait wait);
  FrameHeader read_header(Wait wait);
  size_t read_body(std::span<std::byte> buffer, Wait wait);
  size_t body_left() const;
  /// Whether something came that was not read yet.
  bool input_waiting() const;
  bool output_broken() const;
  /// See Connection::linger().
  void linger(std::chrono::milliseconds timeout);

  /// See Connection.
  Io try_read_bytes(std::span<std::byte> buffer);
  Io try_write_bytes(std::span<const std::byte> bytes);
  Io try_flush();
  int input() const;
  int output() const;

  const std::string& peer() const;
  uint64_t wire_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rfork::net
