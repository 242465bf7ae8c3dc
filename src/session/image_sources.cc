#include "session/image_sources.h"

#include <fmt/format.h>

#include "base/error.h"
#include "session/messages.h"
#include "session/reading.h"

namespace rfork::session {

namespace {

using net::FrameType;

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

}  // namespace

std::unique_ptr<ImageSource> image_in_frames(WorkerContext& worker) {
  return std::make_unique<Frames>(worker);
}

}  // namespace rfork::session
