// The bytes below a connection: a non-blocking socket, or a pair of pipes.
//
// Nothing here waits. A call that can't go on says which way it waits for, and the coroutine above
// waits with its deadline. So plain bytes and TLS share one way of waiting, and a pair of pipe
// descriptors needs no other code than a socket.
#pragma once

#include <cstddef>
#include <span>

#include "base/unique_fd.h"

namespace rfork::net {

/// What became of a non-blocking read or write.
struct Io {
  enum class State {
    done,        ///< `size` bytes, at least one
    want_read,   ///< again when the input is readable
    want_write,  ///< again when the output is writable
    closed,      ///< the other end closed
  };
  State state = State::done;
  size_t size = 0;
};

class Transport {
 public:
  /// Takes a connected stream socket, and makes it non-blocking.
  explicit Transport(UniqueFd socket);
  /// Takes two pipe ends.
  Transport(UniqueFd input, UniqueFd output);

  int input() const { return input_.get(); }
  int output() const { return output_ ? output_.get() : input_.get(); }

  /// Throws Error when the transport broke.
  Io read(std::span<std::byte> buffer);
  Io write(std::span<const std::byte> data);
  /// One system call for both: `first` goes before `second`.
  Io write(std::span<const std::byte> first, std::span<const std::byte> second);
  /// Whether bytes, or the end, can be read at once.
  bool input_waiting() const;
  /// Says to the other end that nothing more will come. Its bytes can still be read.
  void finish_output();

 private:
  UniqueFd input_;   ///< the socket, or the pipe to read
  UniqueFd output_;  ///< the pipe to write; empty over a socket
};

}  // namespace rfork::net
