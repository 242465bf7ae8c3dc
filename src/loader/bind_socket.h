// Makes a socket with its name, or finds out whether it could be had.
#pragma once

#include <sys/types.h>

#include <set>
#include <string>

#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/findings.h"
#include "loader/socket_names.h"

namespace rfork::loader {

class CreatedFiles;
class HeldConnections;
class RemadeConnections;

struct BindOptions {
  bool any_address = false;  ///< instead of one that this host doesn't have
  /// The process that has the socket still, on this host: it is frozen, and ends when the child
  /// runs. 0: there is none.
  pid_t original = 0;
  HeldConnections* held = nullptr;            ///< what a holder has of it; borrowed, may be null
  const RemadeConnections* remade = nullptr;  ///< borrowed, may be null
  CreatedFiles* created = nullptr;  ///< makes directories that paths lack; borrowed, may be null
  std::set<std::string> moving;     ///< addresses that this host may get a little later
  bool trial = false;               ///< only to see whether it can be had: nothing is left behind
  const char* where = "here";       ///< for a person
};

struct BoundSocket {
  UniqueFd fd;         ///< empty, with a reason in the findings, when it can't be had
  std::string reach;   ///< of a unix socket with a path: where it can be connected to
  bool taken = false;  ///< it is the original's own, with all its state
};

/// connect(2) to an address, or to the socket that is bound here. 0, or an errno.
int connect_to_name(int fd, const Bytes& name);
int connect_to(int fd, const BoundSocket& bound, const Bytes& name);

/// A TCP connection to elsewhere: only the very socket of the original will do.
bool is_kept_connection(const image::Socket& socket);

/// The address that it has, as BindOptions::moving names it; empty: it has none.
std::string moving_address(const image::Socket& socket);

/// `number`: the descriptor that it will be. The socket listens if it did.
BoundSocket make_socket(const image::Socket& socket, int number, const BindOptions& options,
                        SocketNames& names, Findings& findings);

/// The very socket of the original, with all that waits in it. False: there is none to be had.
bool take_original(BoundSocket& made, const image::Socket& socket, int number,
                   const BindOptions& options);

/// Gives a unix socket that is there its name, if it has one.
bool name_end(BoundSocket& end, const image::Socket& socket, int number, const BindOptions& options,
              SocketNames& names, Findings& findings);

}  // namespace rfork::loader
