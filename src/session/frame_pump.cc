#include "session/frame_pump.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "session/reading.h"

namespace rfork::session {

using net::FrameType;
using net::Io;

namespace {

constexpr uint64_t kConfirmEvery = 64u << 10;  // bytes

std::array<std::byte, 8> encode_position(uint64_t position) {
  std::array<std::byte, 8> bytes;
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(position >> (8 * i));
  return bytes;
}

uint64_t decode_position(FrameType type, std::span<const std::byte> body) {
  if (body.size() != 8) {
    throw Refusal(Failure::connection_lost,
                  fmt::format("{} has {} bytes", net::name_of(type), body.size()));
  }
  uint64_t position = 0;
  for (size_t i = 0; i < 8; ++i) position |= static_cast<uint64_t>(body[i]) << (8 * i);
  return position;
}

}  // namespace

void FramePump::put(FrameType type, std::span<const std::byte> head,
                    std::span<const std::byte> body) {
  // What is confirmed goes when it is the larger part: each byte is moved once on average.
  if (unconfirmed_ > out_.size() / 2) {
    out_.erase(out_.begin(), out_.begin() + static_cast<ptrdiff_t>(unconfirmed_));
    unsent_ -= unconfirmed_;
    unconfirmed_ = 0;
  }
  const auto size = static_cast<uint32_t>(head.size() + body.size());
  const auto header = net::encode_header({type, size});
  out_.insert(out_.end(), header.begin(), header.end());
  out_.insert(out_.end(), head.begin(), head.end());
  out_.insert(out_.end(), body.begin(), body.end());
}

void FramePump::write() {
  while (unsent_ < out_.size()) {
    const Io io = link_->try_write_bytes(std::span(out_).subspan(unsent_));
    if (io.state != Io::State::done) break;
    unsent_ += io.size;
    flushing_ = true;
  }
  if (flushing_) flushing_ = link_->try_flush().state != Io::State::done;
}

void FramePump::confirm() {
  if (told_ == received_) return;
  told_ = received_;
  put(FrameType::received, encode_position(received_));
}

void FramePump::take_confirmed(uint64_t position) {
  if (position <= confirmed_) return;  // a frame that came again
  if (position - confirmed_ > out_.size() - unconfirmed_) {
    throw Refusal(
        Failure::connection_lost,
        fmt::format("{} says that it has {} bytes, which were not sent", link_->peer(), position));
  }
  unconfirmed_ += position - confirmed_;
  confirmed_ = position;
}

void FramePump::resume(net::Link& link, net::Wait wait) {
  link_ = &link;
  in_size_ = 0;
  flushing_ = false;
  link.write(FrameType::resume, encode_position(received_), wait);
  told_ = received_;
  const net::Frame frame = read_expected(link, {FrameType::resume}, wait);
  const uint64_t position = decode_position(frame.type, frame.body);
  if (position < confirmed_) {
    throw Refusal(Failure::connection_lost, link.peer() + " has forgotten what it had");
  }
  take_confirmed(position);
  unsent_ = unconfirmed_;
}

void FramePump::give_memory_back() {
  if (in_size_ == 0) in_ = Bytes();
  if (!all_confirmed()) return;
  out_ = Bytes();
  unconfirmed_ = unsent_ = 0;
}

bool FramePump::read(const Take& take) {
  constexpr size_t kRoom = 128u << 10;
  constexpr int kReads = 8;  // then others have their turn
  for (int reads = 0; reads < kReads; ++reads) {
    if (in_.size() < in_size_ + kRoom) in_.resize(in_size_ + kRoom);
    const Io io = link_->try_read_bytes(std::span(in_).subspan(in_size_));
    if (io.state == Io::State::closed) {
      if (in_size_ == 0) return false;
      throw Refusal(Failure::connection_lost, link_->peer() + " closed inside a frame");
    }
    if (io.state != Io::State::done) return true;
    in_size_ += io.size;
    size_t at = 0;
    while (in_size_ - at >= net::kFrameHeaderSize) {
      const auto header = net::decode_header(std::span<const std::byte, net::kFrameHeaderSize>(
          in_.data() + at, net::kFrameHeaderSize));
      if (in_size_ - at - net::kFrameHeaderSize < header.size) break;
      at += net::kFrameHeaderSize;
      const auto body = std::span(in_).subspan(at, header.size);
      at += header.size;
      received_ += net::kFrameHeaderSize + header.size;
      if (header.type == FrameType::received) {
        take_confirmed(decode_position(header.type, body));
      } else {
        take(header.type, body);
      }
    }
    std::copy(in_.begin() + static_cast<ptrdiff_t>(at),
              in_.begin() + static_cast<ptrdiff_t>(in_size_), in_.begin());
    in_size_ -= at;
    if (received_ - told_ >= kConfirmEvery) confirm();
  }
  return true;
}

}  // namespace rfork::session
