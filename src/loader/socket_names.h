// Names of unix sockets: paths that are there, paths that were removed, and others' names.
//
// A socket keeps the bytes that were given to bind(2). One whose path doesn't lead to it any more
// is bound in a directory of our own that is the root directory for that moment, so that its name
// is what it was and no file here is touched. Rejected: to bind at the place itself and unlink,
// which needs the place to be free.
#pragma once

#include <sys/types.h>

#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/io.h"
#include "base/unique_fd.h"
#include "image/socket_words.h"

namespace rfork::loader {

using image::address_words;
using image::socket_path;

/// Whether a socket is at that path: 0 or ECONNREFUSED (a dead file), ENOENT, ...
int probe_path(const std::string& path, int type);

/// connect(2) to the socket at a path of any length. 0, or an errno.
int connect_to_path(int fd, const std::string& path);

class SocketNames {
 public:
  /// `cwd`: of the process, for relative paths.
  explicit SocketNames(std::string cwd) : cwd_(std::move(cwd)) {}
  ~SocketNames();  ///< removes what was made, but for kept paths
  SocketNames(const SocketNames&) = delete;
  SocketNames& operator=(const SocketNames&) = delete;

  /// Where a socket's path is here.
  std::string place(const Bytes& name) const;
  /// Binds at its place, in which nothing is. 0, or an errno.
  int bind_at_place(int fd, const Bytes& name);
  /// Binds it under that name, whatever is at its place. `reach` gets the path, if the name is one,
  /// under which it can be connected to until take_back(). 0, or an errno.
  int lend(int fd, const Bytes& name, std::string& reach);
  /// Notes that a socket of the process has an address that may be shared; false: another has it
  /// already.
  bool first_to_share(const Bytes& name) { return shared_.insert(name).second; }
  /// Notes that a TCP connection of the process has a port, in network order: who listens there may
  /// need leave to.
  void note_connection(uint16_t port) { connections_.insert(port); }
  bool has_connection(uint16_t port) const { return connections_.contains(port); }
  /// Removes what was only lent.
  void take_back();
  /// The paths at their places stay.
  void keep() { made_.clear(); }

 private:
  int bind_elsewhere(int fd, const Bytes& name, std::string& reach);

  std::string cwd_;
  std::set<Bytes> shared_;
  std::set<uint16_t> connections_;
  std::vector<std::string> made_;       ///< at their places
  std::vector<std::string> elsewhere_;  ///< for a moment: directories of our own, with all below
};

}  // namespace rfork::loader
