#include "session/frame_pump.h"

#include <algorithm>

#include "base/error.h"

namespace rfork::session {

using net::Io;

void FramePump::put(net::FrameType type, std::span<const std::byte> head,
                    std::span<const std::byte> body) {
  if (out_at_ > 0 && out_at_ == out_.size()) {
    out_.clear();
    out_at_ = 0;
  }
  const auto size = static_cast<uint32_t>(head.size() + body.size());
  const auto header = net::encode_header({type, size});
  out_.insert(out_.end(), header.begin(), header.end());
  out_.insert(out_.end(), head.begin(), head.end());
  out_.insert(out_.end(), body.begin(), body.end());
}

void FramePump::write() {
  while (out_at_ < out_.size()) {
    const Io io = link_.try_write_bytes(std::span(out_).subspan(out_at_));
    if (io.state != Io::State::done) break;
    out_at_ += io.size;
    flushing_ = true;
  }
  if (flushing_) flushing_ = link_.try_flush().state != Io::State::done;
}

bool FramePump::read(const std::function<void(net::FrameType, std::span<const std::byte>)>& take) {
  constexpr size_t kRoom = 256u << 10;
  constexpr int kReads = 8;  // then others have their turn
  for (int reads = 0; reads < kReads; ++reads) {
    if (in_.size() < in_size_ + kRoom) in_.resize(in_size_ + kRoom);
    const Io io = link_.try_read_bytes(std::span(in_).subspan(in_size_));
    if (io.state == Io::State::closed) {
      if (in_size_ == 0) return false;
      throw Refusal(Failure::connection_lost, link_.peer() + " closed inside a frame");
    }
    if (io.state != Io::State::done) return true;
    in_size_ += io.size;
    size_t at = 0;
    while (in_size_ - at >= net::kFrameHeaderSize) {
      const auto header = net::decode_header(std::span<const std::byte, net::kFrameHeaderSize>(
          in_.data() + at, net::kFrameHeaderSize));
      if (in_size_ - at - net::kFrameHeaderSize < header.size) break;
      at += net::kFrameHeaderSize;
      take(header.type, std::span(in_).subspan(at, header.size));
      at += header.size;
    }
    std::copy(in_.begin() + static_cast<ptrdiff_t>(at),
              in_.begin() + static_cast<ptrdiff_t>(in_size_), in_.begin());
    in_size_ -= at;
  }
  return true;
}

}  // namespace rfork::session
