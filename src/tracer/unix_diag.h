// What only sock_diag(7) tells of unix sockets.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/unique_fd.h"

namespace rfork::tracer {

struct UnixSocket {
  uint8_t type = 0;   ///< SOCK_*
  uint8_t state = 0;  ///< TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE
  ino_t peer = 0;     ///< 0: none, or one that is gone
  bool peer_told = false;
  uint8_t shut = 0;
  std::optional<ino_t> file;       ///< of the path that it is bound to
  std::vector<ino_t> waiting;      ///< of a listening one: who waits to be accepted
  uint32_t queued = 0, limit = 0;  ///< of a listening one: how many wait, and may
};

/// Asks about the sockets of the network namespace that process `pid` is in.
class UnixDiag {
 public:
  explicit UnixDiag(pid_t pid);
  /// nullopt: there is no such unix socket, or it is of another namespace, or the kernel can't
  /// tell.
  std::optional<UnixSocket> ask(ino_t inode) const;
  /// Those of `wanted` among all of the namespace, which the kernel tells in one answer; for each
  /// question about one it looks through all of them. One that is missing may be there still.
  std::map<ino_t, UnixSocket> find(const std::set<ino_t>& wanted) const;

 private:
  bool send(uint16_t flags, ino_t inode) const;

  UniqueFd netlink_;
};

}  // namespace rfork::tracer
