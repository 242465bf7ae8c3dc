// What is in a socket and can't be read, in words.
#pragma once

#include <string>

#include "image/model.h"

namespace rfork::tracer {

/// Why it can't be carried.
struct SocketObstacle {
  std::string words;      ///< "with ..."; empty: nothing is in the way
  std::string when = {};  ///< it may be tried again: "later"; empty: that wouldn't help
};

/// Of an open socket that was described. Nothing of it changes; above all its error, which the
/// kernel gives once, is the process's still. `stopped`: the process is, so that what goes out
/// becomes less.
SocketObstacle socket_obstacle(int fd, const image::Socket& socket, bool stopped);

/// Whether the next call on it is told of an error (SO_ERROR, MSG_ERRQUEUE), as a peek would be.
bool has_error(int fd);

}  // namespace rfork::tracer
