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
  std::copy(body.begin(), body.end(), body_room(head.size(), body.size()).begin());
  put_filled(type, head, body.size());
}

std::span<std::byte> FramePump::body_room(size_t head_size, size_t most) {
  const size_t before = net::kFrameHeaderSize + head_size;
  return out_.room(before + most).subspan(before, most);
}

void FramePump::put_filled(FrameType type, std::span<const std::byte> head, size_t size) {
  const size_t before = net::kFrameHeaderSize + head.size();
  const auto header = net::encode_header({type, static_cast<uint32_t>(head.size() + size)});
  const auto room = out_.room(before + size);
  std::copy(header.begin(), header.end(), room.begin());
  std::copy(head.begin(), head.end(), room.begin() + net::kFrameHeaderSize);
  out_.push(before + size);
}

FramePump::Loss FramePump::write() {
  try {
    write_some();
    return std::nullopt;
  } catch (const Refusal& refusal) {
    return refusal.what();
  }
}

FramePump::Loss FramePump::read(const Take& take) {
  try {
    read_some(take);
    return std::nullopt;
  } catch (const Refusal& refusal) {
    return refusal.what();
  }
}

void FramePump::write_some() {
  while (queued() > 0) {
    const Io io = link_->try_write_bytes(out_.bytes().subspan(sent_));
    if (io.state != Io::State::done) break;
    sent_ += io.size;
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
  if (position - confirmed_ > out_.size()) {
    throw Refusal(
        Failure::connection_lost,
        fmt::format("{} says that it has {} bytes, which were not sent", link_->peer(), position));
  }
  const auto size = static_cast<size_t>(position - confirmed_);
  out_.pop(size);
  sent_ -= std::min(sent_, size);
  confirmed_ = position;
}

void FramePump::resume(net::Link& link, net::Wait wait) {
  link_ = &link;
  in_.pop(in_.size());
  flushing_ = false;
  link.write(FrameType::resume, encode_position(received_), wait);
  told_ = received_;
  const net::Frame frame = read_expected(link, {FrameType::resume}, wait);
  const uint64_t position = decode_position(frame.type, frame.body);
  if (position < confirmed_) {
    throw Refusal(Failure::connection_lost, link.peer() + " has forgotten what it had");
  }
  take_confirmed(position);
  sent_ = 0;
}

void FramePump::give_memory_back() {
  if (in_.empty()) in_.reset();
  if (out_.empty()) out_.reset();
}

void FramePump::read_some(const Take& take) {
  constexpr size_t kRoom = 128u << 10;
  constexpr int kReads = 8;  // then others have their turn
  for (int reads = 0; reads < kReads; ++reads) {
    const Io io = link_->try_read_bytes(in_.room(kRoom));
    if (io.state == Io::State::closed) {
      const std::string where = in_.empty() ? "the connection" : "inside a frame";
      throw Refusal(Failure::connection_lost, link_->peer() + " closed " + where);
    }
    if (io.state != Io::State::done) return;
    in_.push(io.size);
    take_frames(take);
    if (received_ - told_ >= kConfirmEvery) confirm();
  }
}

void FramePump::take_frames(const Take& take) {
  while (in_.size() >= net::kFrameHeaderSize) {
    const auto header = net::decode_header(in_.bytes().first<net::kFrameHeaderSize>());
    const size_t whole = net::kFrameHeaderSize + header.size;
    if (in_.size() < whole) return;
    received_ += whole;
    const auto body = in_.bytes().subspan(net::kFrameHeaderSize, header.size);
    in_.pop(whole);  // its bytes stay until the next read
    if (header.type == FrameType::received) {
      take_confirmed(decode_position(header.type, body));
    } else {
      take(header.type, body);
    }
  }
}

}  // namespace rfork::session
