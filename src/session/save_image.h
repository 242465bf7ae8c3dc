// A process into a file or a pipe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "tracer/capture.h"

namespace rfork::session {

struct Saved {
  uint64_t image_bytes = 0;
  int64_t paused_ns = 0;
  int64_t total_ns = 0;
};

/// Captures `pid` into the file `path` ("-": standard output). The file appears under its name only
/// when it is complete and on disk, replacing one that was there; mode 0600. With a `front`
/// (image/front.h) the file can be run: mode 0700. With options.move the original then ends. Throws
/// Refusal, Error, ProcessGone; no file and an unharmed process are left then.
Saved save_image(pid_t pid, const tracer::Options& options, const std::string& path,
                 std::span<const std::byte> front = {});

}  // namespace rfork::session
