// rforkd: listens, forks a worker for each connection, and looks after the children that workers
// leave.
#pragma once

#include "session/daemon_options.h"

namespace rfork::session {

/// Runs until SIGTERM, SIGINT or SIGHUP, with `stdio` until its one connection has ended too;
/// children go on. Throws Refusal(usage) when an address can't be listened on. Call it in a process
/// with one thread that does nothing else.
void run_daemon(const DaemonOptions& options);

}  // namespace rfork::session
