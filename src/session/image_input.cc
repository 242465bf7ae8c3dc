#include "session/image_input.h"

#include <fmt/format.h>

#include "base/error.h"
#include "image/format.h"
#include "session/messages.h"
#include "session/reading.h"

namespace rfork::session {

/// Goes to the next DATA frame; false at END.
bool ImageInput::next_frame() {
  const net::FrameHeader header = link_.read_header(next_wait_);
  next_wait_ = wait_;
  if (header.type == net::FrameType::data) return true;
  net::Frame frame{header.type, Bytes(header.size)};
  for (size_t at = 0; link_.body_left() > 0;) {
    at += link_.read_body(std::span(frame.body).subspan(at), wait_);
  }
  if (frame.type != net::FrameType::end) throw_unexpected(link_, frame, "DATA or END");
  const uint64_t sent = decode<EndMessage>(frame.body).image_bytes;
  if (sent != position_) {
    throw Refusal(Failure::bad_image,
                  fmt::format("END speaks of {} bytes, but {} came", sent, position_));
  }
  ended_ = true;
  return false;
}

size_t ImageInput::fill_until_end(std::span<std::byte> buffer) {
  size_t got = 0;
  while (got < buffer.size() && !ended_) {
    if (link_.body_left() == 0 && !next_frame()) break;
    const size_t n = link_.read_body(buffer.subspan(got), wait_);
    got += n;
    position_ += n;
  }
  return got;
}

void ImageInput::fill(std::span<std::byte> buffer, uint64_t total) {
  if (fill_until_end(buffer) < buffer.size()) image::refuse_cut(position_, total);
}

void ImageInput::finish() {
  std::byte more{};
  if (fill_until_end({&more, 1}) != 0) {
    throw Refusal(Failure::bad_image,
                  fmt::format("the image goes on after its end at byte {}", position_ - 1));
  }
}

}  // namespace rfork::session
