#include "session/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "base/text.h"

namespace rfork::session {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

Progress::Progress(std::string what, uint64_t total_bytes)
    : what_(std::move(what)),
      total_(total_bytes),
      terminal_(::isatty(STDERR_FILENO) == 1),
      started_(steady_clock::now()),
      next_(started_ + milliseconds(500)) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Progress::add(uint64_t bytes) {
  done_ += bytes;
  if (terminal_ && steady_clock::now() >= next_) draw();
}

void Progress::draw() {
  const auto now = steady_clock::now();
  next_ = now + milliseconds(100);
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(now - started_).count();
  const double rate = static_cast<double>(done_) / seconds;
  const auto left_ns = static_cast<int64_t>(static_cast<double>(total_ - done_) / rate * 1e9);
  std::fputs(fmt::format("\r\033[K{}: {} of {}, {}/s, {} left", what_, human_bytes(done_),
                         human_bytes(total_), human_bytes(static_cast<uint64_t>(rate)),
                         human_duration_ns(left_ns))
                 .c_str(),
             stderr);
}

}  // namespace rfork::session
