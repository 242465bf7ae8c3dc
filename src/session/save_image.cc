#include "session/save_image.h"

#include <fmt/format.h>

#include "base/clock.h"
#include "base/output_file.h"
#include "image/format.h"
#include "session/progress.h"

namespace rfork::session {

namespace {

constexpr size_t kChunk = 1u << 20;

}  // namespace

Saved save_image(pid_t pid, const tracer::Options& options, const std::string& path,
                 std::span<const std::byte> front) {
  const int64_t started = clock_ns(CLOCK_MONOTONIC);
  const tracer::Examination examination = tracer::examine(pid, options);
  OutputFile file(path, front.empty() ? 0600 : 0700);
  file.write(front);
  tracer::Capture capture(examination, options, {});
  image::Encoder encoder(capture.snapshot(), capture.runs());
  file.write(encoder.metadata());
  Progress progress(fmt::format("{} → {}", pid, path), encoder.total_size());
  Bytes buffer(kChunk);
  while (const size_t size = capture.read(buffer)) {
    const auto data = std::span<const std::byte>(buffer).first(size);
    encoder.absorb(data);
    file.write(data);
    progress.add(size);
  }
  file.write(encoder.trailer());
  file.finish();
  if (options.move) capture.end_original();
  return {encoder.total_size(), capture.paused().count(), clock_ns(CLOCK_MONOTONIC) - started};
}

}  // namespace rfork::session
