// A process into a file or a pipe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tracer/capture.h"

namespace rfork::session {

struct Saved {
  uint64_t image_bytes = 0;
  int64_t paused_ns = 0;
  int64_t total_ns = 0;
  /// What has the connections of descriptors `kept_fds` now; 0: there are none.
  pid_t holder = 0;
  std::vector<int> kept_fds;
  std::vector<std::string> warnings;  ///< what will be different, one line each
};

/// Captures `pid` into the file `path` ("-": standard output). The file appears under its name only
/// when it is complete and on disk, replacing one that was there; mode 0600. With a `front`
/// (image/front.h) the file can be run: mode 0700. With options.move the original then ends; with
/// options.keep_tcp a holder of its connections stays (connection_holder.h). Throws Refusal, Error,
/// ProcessGone; no file and an unharmed process are left then.
Saved save_image(pid_t pid, const tracer::Options& options, const std::string& path,
                 std::span<const std::byte> front = {});

}  // namespace rfork::session
