#include "session/image_sources.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "base/error.h"
#include "session/messages.h"
#include "session/reading.h"

namespace rfork::session {

namespace {

using net::FrameType;
using Clock = std::chrono::steady_clock;

class Frames : public ImageSource {
 public:
  explicit Frames(WorkerContext& worker)
      : link_(worker.link),
        next_wait_{worker.options.deadlines.first_data, "the image"},
        wait_{worker.options.deadlines.progress, "more of the image"} {}

  size_t read(std::span<std::byte> buffer) override {
    while (!ended_) {
      if (link_.body_left() == 0 && !next_frame()) break;
      const size_t n = link_.read_body(buffer, wait_);
      position_ += n;
      if (n > 0) return n;
    }
    return 0;
  }

 private:
  bool next_frame();

  net::Link& link_;
  net::Wait next_wait_;
  net::Wait wait_;
  uint64_t position_ = 0;
  bool ended_ = false;
};

/// Goes to the next DATA frame; false at END.
bool Frames::next_frame() {
  const net::FrameHeader header = link_.read_header(next_wait_);
  next_wait_ = wait_;
  if (header.type == FrameType::data) return true;
  net::Frame frame{header.type, Bytes(header.size)};
  for (size_t at = 0; link_.body_left() > 0;) {
    at += link_.read_body(std::span(frame.body).subspan(at), wait_);
  }
  if (frame.type != FrameType::end) throw_unexpected(link_, frame, "DATA or END");
  const uint64_t sent = decode<EndMessage>(frame.body).image_bytes;
  if (sent != position_) {
    throw Refusal(Failure::bad_image,
                  fmt::format("END speaks of {} bytes, but {} came", sent, position_));
  }
  ended_ = true;
  return false;
}

class Spooled : public ImageSource {
 public:
  Spooled(WorkerContext& worker, SpooledImage& spooled) : worker_(worker), spooled_(spooled) {}

  size_t read(std::span<std::byte> buffer) override {
    if (ended_) return 0;
    if (!file_) file_ = spooled_.take(size_when_complete());
    stay_in_touch();
    ssize_t n = 0;
    do {
      n = ::read(file_.get(), buffer.data(), buffer.size());
    } while (n < 0 && errno == EINTR);
    if (n < 0) throw_errno("read", "the spooled image");
    if (n > 0) return static_cast<size_t>(n);
    // This may attend to the child for long, and the file has its room on the disk until then.
    ended_ = true;
    file_.reset();
    return 0;
  }

 private:
  /// Waits for END.
  uint64_t size_when_complete();
  /// Nobody hears of the other meanwhile, and a file server may be slow.
  void stay_in_touch();

  WorkerContext& worker_;
  SpooledImage& spooled_;
  UniqueFd file_;
  bool ended_ = false;
  Clock::time_point last_word_ = Clock::now();
};

uint64_t Spooled::size_when_complete() {
  const net::Wait wait{worker_.options.deadlines.first_data, "the image in the spool"};
  net::Frame frame;
  do {
    frame = read_expected(worker_.link, {FrameType::end, FrameType::waiting}, wait);
  } while (frame.type == FrameType::waiting);
  return decode<EndMessage>(frame.body).image_bytes;
}

void Spooled::stay_in_touch() {
  if (worker_.line.aborted()) throw Refusal(Failure::interrupted, "interrupted");
  if (Clock::now() - last_word_ < worker_.options.deadlines.keepalive) return;
  last_word_ = Clock::now();
  worker_.link.write(FrameType::waiting, {},
                     {worker_.options.deadlines.progress, "a sign of life to be taken"});
}

}  // namespace

std::unique_ptr<ImageSource> image_in_frames(WorkerContext& worker) {
  return std::make_unique<Frames>(worker);
}

std::unique_ptr<ImageSource> image_in_spool(WorkerContext& worker, SpooledImage& spooled) {
  return std::make_unique<Spooled>(worker, spooled);
}

}  // namespace rfork::session
