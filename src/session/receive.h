// The destination's side of one restore: from the offer to the running child.
#pragma once

#include "net/frame.h"
#include "session/worker.h"

namespace rfork::session {

/// Serves an OFFER to its end. When it throws, no child of it runs and none will; the reasons are
/// for the client.
void receive(WorkerContext& worker, const net::Frame& offer);

/// Serves a CHECK: judges the offer, then the image without its pages, with the passes of
/// receive(), and forgets it.
void answer_check(WorkerContext& worker, const net::Frame& question);

}  // namespace rfork::session
