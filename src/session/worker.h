// A daemon's worker: the process that serves one connection, and ends with it.
//
// It is forked before a byte of the connection is read, so whatever a peer sends is parsed here,
// and a crash costs that peer its connection and nobody else anything.
#pragma once

#include <string>

#include "net/link.h"
#include "session/channel.h"
#include "session/daemon_line.h"
#include "session/daemon_options.h"

namespace rfork::session {

/// What serving a connection needs; lives as long as the worker.
struct WorkerContext {
  const DaemonOptions& options;
  net::Link& link;
  DaemonLine& line;
};

/// Serves the connection to its end. Gives the worker's exit code; never throws.
int serve_connection(net::Transport transport, const std::string& peer, Channel channel,
                     const DaemonOptions& options) noexcept;

}  // namespace rfork::session
