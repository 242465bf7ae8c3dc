// The two ways by which an image comes to a daemon's worker.
#pragma once

#include <memory>

#include "session/image_input.h"
#include "session/spool.h"
#include "session/worker.h"

namespace rfork::session {

/// DATA frames, wherever they were cut, until END. Borrows `worker`.
std::unique_ptr<ImageSource> image_in_frames(WorkerContext& worker);

/// A file of the spool, once END says that it is complete. Borrows `worker` and `spooled`.
std::unique_ptr<ImageSource> image_in_spool(WorkerContext& worker, SpooledImage& spooled);

}  // namespace rfork::session
