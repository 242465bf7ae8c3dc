#include "session/save_image.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "base/clock.h"
#include "base/output_file.h"
#include "image/format.h"
#include "session/connection_holder.h"
#include "session/progress.h"

namespace rfork::session {

namespace {

constexpr size_t kChunk = 1u << 20;

std::vector<int> kept_descriptors(const image::Snapshot& snapshot) {
  std::vector<int> numbers;
  for (const image::Descriptor& descriptor : snapshot.processes[0].descriptors) {
    const auto* const one = image::find_id(snapshot.descriptions, descriptor.description);
    if (one != nullptr && one->socket && one->socket->kept) numbers.push_back(descriptor.fd);
  }
  return numbers;
}

/// The file is complete. Nobody shall run it while the original goes on.
void commit(ConnectionHolder& holder, tracer::Capture& capture, pid_t pid,
            const std::string& path) {
  try {
    holder.prepare(pid, capture.snapshot().processes[0].stop_signal != 0);
    capture.hold_original();
    capture.note_losses();
    holder.end_original(pid);
  } catch (const std::exception& error) {
    const auto* const refusal = dynamic_cast<const Refusal*>(&error);
    struct stat status {};
    const bool regular = ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
    const bool ended = refusal != nullptr && refusal->failure() == Failure::in_doubt;
    if (!ended && regular) ::unlink(path.c_str());
    throw;
  }
}

}  // namespace

Saved save_image(pid_t pid, const tracer::Options& wanted, const std::string& path,
                 std::span<const std::byte> front) {
  const int64_t started = clock_ns(CLOCK_MONOTONIC);
  const tracer::Examination examination = tracer::examine(pid, wanted);
  OutputFile file(path, front.empty() ? 0600 : 0700);
  file.write(front);
  tracer::Options options = wanted;
  std::optional<ConnectionHolder> holder;
  if (options.move && options.keep_tcp) {
    holder.emplace(fmt::format("of {} for {}", pid, path));
    options.holder = holder->described();
  }
  tracer::Capture capture(examination, options, {});
  const std::vector<tracer::KeptSocket> kept = capture.take_kept();
  if (kept.empty()) holder.reset();
  if (holder) holder->hold(kept, examination.euid);
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
  if (holder) commit(*holder, capture, pid, path);
  if (options.move) capture.end_original();
  Saved saved;
  saved.image_bytes = encoder.total_size();
  saved.paused_ns = capture.paused().count();
  saved.total_ns = clock_ns(CLOCK_MONOTONIC) - started;
  saved.warnings = examination.changes;
  std::ranges::copy(capture.losses(), std::back_inserter(saved.warnings));
  if (holder) saved.holder = holder->described().pid;
  if (holder) saved.kept_fds = kept_descriptors(capture.snapshot());
  return saved;
}

}  // namespace rfork::session
