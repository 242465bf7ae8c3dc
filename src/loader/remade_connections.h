// TCP connections whose address comes here from another host: sockets that are made by TCP_REPAIR
// with the sequence numbers, windows, options and queues that the original's had.
//
// Until the child is about to run they are silent (base/tcp_silence.h), and in repair mode: what
// fails before that leaves the connections with the original, and closing them says nothing to
// anybody. Needs CAP_NET_ADMIN.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/tcp_silence.h"
#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/findings.h"

namespace rfork::loader {

class RemadeConnections {
 public:
  /// Those of the image; none is made yet.
  explicit RemadeConnections(const image::Snapshot& snapshot);
  /// To see whether they can be had: `sockets` need no state. Borrowed, as are those of an image.
  explicit RemadeConnections(const std::vector<image::Socket>& sockets);

  bool any() const { return !connections_.empty(); }
  /// Makes them, with this process's own rights. A reason for each that can't be made.
  void make(Findings& findings);
  /// The socket with that cookie, still in repair mode; empty if there is none.
  UniqueFd take(uint64_t cookie) const;
  /// Closes them; silence stays.
  void close() { connections_.clear(); }
  /// The last that can fail, when the child stands ready: what was sent already is queued for the
  /// case that it is lost. As late as this because the kernel begins to wait for its
  /// acknowledgement. Throws Error.
  void queue_sent();
  /// The child has them: the silence ends, and what was not sent yet is sent.
  void release();

 private:
  struct Connection {
    const image::Socket* socket = nullptr;
    int number = 0;  ///< a descriptor that it will be
    UniqueFd fd;
    int reuse = 0;  ///< SO_REUSEADDR as the program set it
  };

  bool silence(Findings& findings);
  static void make_one(Connection& one, Findings& findings);

  std::optional<TcpSilence> silence_;  ///< outlives the sockets
  std::vector<Connection> connections_;
};

}  // namespace rfork::loader
