// By which way an image comes to a daemon's worker.
#pragma once

#include <memory>

#include "session/image_input.h"
#include "session/worker.h"

namespace rfork::session {

/// DATA frames, wherever they were cut, until END. Borrows `worker`.
std::unique_ptr<ImageSource> image_in_frames(WorkerContext& worker);

}  // namespace rfork::session
