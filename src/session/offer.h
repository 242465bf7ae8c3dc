// What a client and a daemon say to each other about one restore, as plain data. How it is encoded:
// messages.h.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "image/host.h"
#include "image/model.h"
#include "loader/restore.h"

namespace rfork::session {

/// A socket whose name the child wants there: as much of image::Socket as it takes to try it.
struct NamedSocket {
  int32_t fd = 0;
  int32_t family = 0, type = 0, protocol = 0;
  std::string name;  ///< struct sockaddr
  std::string peer;  ///< the same; empty: not connected
  std::string interface;
  bool has_path = false;
  bool listening = false;
  uint64_t cookie = 0;
  std::vector<std::string> options, values;  ///< image::SocketOption, one beside the other
};

/// What the client wants restored: said before the process is frozen, so that a no costs it
/// nothing.
struct Offer {
  bool move = false;  ///< the original ends when the child runs
  loader::PidMode pid_mode = loader::PidMode::automatic;
  bool ignore_cpu = false;
  bool overwrite_files = false;
  bool changed_files = false;  ///< open files are taken as they are there
  bool leases = false;         ///< the process holds some, maybe of files that are seen there too
  bool any_address = false;    ///< sockets whose address isn't there get any
  bool spooled = false;        ///< the image comes through the spool: a file named for the move
  bool attended = false;       ///< a ghost at the origin stays connected to the child
  uint32_t linger_s = 0;       ///< how long the child is kept when that connection is lost
  image::Needs needs;          ///< needs.host.name is the origin's name
  int32_t pid = 0;
  std::vector<int32_t> tids;
  std::string name;  ///< comm
  uint32_t uid = 0;  ///< effective, at the origin
  std::string user;  ///< its name there; may be empty
  uint64_t resident_bytes = 0;
  std::vector<image::File> mapped_files;
  std::vector<image::File> open_files;
  std::vector<NamedSocket> sockets;
  std::vector<image::SysvSegment> segments;  ///< whose ids the child wants
};

/// The destination accepts.
struct Answer {
  /// Paths whose contents need not travel: mapped files that it has with the same contents, open
  /// files that it sees as the same file.
  std::set<std::string> present_paths;
  std::vector<std::string> warnings;  ///< what will be different there, one line each
  /// TCP connections to elsewhere can't be taken from the original, and get new sockets.
  bool remakes_connections = false;
};

/// What a destination says when it is only asked. A real restore would be refused for `reasons`, if
/// there are any.
struct Judgement {
  std::vector<Reason> reasons;
  std::vector<std::string> warnings;    ///< what would be different there, one line each
  std::set<std::string> present_paths;  ///< as in Answer
  bool goes_on = false;                 ///< the image is wanted too, without its pages
  bool remakes_connections = false;     ///< as in Answer
  bool pid_kept = false;                ///< of the second judgement
  bool pid_namespace = false;           ///< kept in a pid namespace of its own
};

/// The child stands before its first instruction.
struct Ready {
  pid_t pid = 0;                      ///< as the destination's processes see it
  std::vector<std::string> warnings;  ///< what is different there, one line each
};

/// The child runs.
struct Running {
  std::string child_id;  ///< what rforkctl calls it
  pid_t pid = 0;
};

/// What a daemon knows of a move or copy whose connection broke.
struct Resolution {
  enum class State {
    running,  ///< the child was let go, and runs
    ended,    ///< it was let go, and has ended since
    aborted,  ///< it was not let go, and never will be
    unknown,  ///< the daemon knows nothing of it: it was restarted, or has forgotten it
  };
  State state = State::unknown;
  std::string child_id;     ///< running, ended
  pid_t pid = 0;            ///< running, ended
  std::string description;  ///< "running", "ended: exit status 3", ... for the person
};

}  // namespace rfork::session
