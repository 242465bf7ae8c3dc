// A process onto another host: the whole way, from the origin's side.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "session/destination.h"
#include "tracer/capture.h"

namespace rfork::session {

struct SendOptions {
  tracer::Options capture;
  loader::PidMode pid_mode = loader::PidMode::automatic;
  bool ignore_cpu = false;
  bool overwrite_files = false;
  bool changed_files = false;
  bool any_address = false;  ///< sockets whose address isn't there get any
  std::string spool;  ///< the image goes through this directory; empty: through the connection
  bool shares_with_parent = false;  ///< others read here what the child may read: only on demand
  std::function<void()> connected = [] {};  ///< called when the destination has shown the key
  /// Gives the process, which is made only then. Called after connected().
  std::function<pid_t()> process;
  bool ghost = false;      ///< of a move: the original's pid stays, for its parent
  uint32_t linger_s = 30;  ///< how long a ghost whose connection is lost tries to get it back
  /// The caller waits no longer, not even for the end of a commit: asked again and again.
  std::function<bool()> given_up = [] { return false; };
};

struct Sent {
  pid_t pid = 0;  ///< of the child, there
  std::string child_id;
  std::string destination;  ///< HOST:PORT
  std::string spool;        ///< the directory through which the image went; empty: the connection
  uint64_t wire_bytes = 0;
  uint64_t image_bytes = 0;
  int64_t paused_ns = 0;
  int64_t total_ns = 0;
  std::vector<std::string> warnings;
  /// Of connections that go on there: addresses that must move, and the process that keeps this
  /// host silent for them until they have gone. 0: none.
  pid_t silence_pid = 0;
  std::vector<std::string> addresses;
};

/// What a destination is told of the process first.
Offer make_offer(const tracer::Examination& examination, const SendOptions& options);

/// Copies (or moves, capture.move) process `pid`, or what options.process gives, to `endpoint`.
///
/// A move commits in two phases: the child stands ready, the original is held, the child is let go,
/// the original ends. When the connection breaks in between, the daemon is asked again by the
/// move's id. Throws Refusal(in_doubt), with the original left stopped, when it can't be known
/// which side runs; with any other exception the original goes on and no child runs.
Sent send_process(pid_t pid, const Endpoint& endpoint, const SendOptions& options);

}  // namespace rfork::session
