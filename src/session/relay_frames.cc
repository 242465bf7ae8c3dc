#include "session/relay_frames.h"

#include <fmt/format.h>

#include "base/error.h"

namespace rfork::session {

std::array<std::byte, kRelayHeadSize> encode_head(uint32_t stream, uint64_t position) {
  std::array<std::byte, kRelayHeadSize> bytes;
  for (size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(stream >> (8 * i));
  for (size_t i = 0; i < 8; ++i) bytes[4 + i] = static_cast<std::byte>(position >> (8 * i));
  return bytes;
}

RelayHead decode_head(net::FrameType type, std::span<const std::byte> body) {
  if (body.size() < kRelayHeadSize) refuse(type, "it is too short");
  RelayHead head;
  for (size_t i = 0; i < 4; ++i) head.stream |= static_cast<uint32_t>(body[i]) << (8 * i);
  for (size_t i = 0; i < 8; ++i) head.position |= static_cast<uint64_t>(body[4 + i]) << (8 * i);
  return head;
}

void refuse(net::FrameType type, std::string_view why) {
  throw Refusal(Failure::connection_lost,
                fmt::format("{} makes no sense: {}", net::name_of(type), why));
}

}  // namespace rfork::session
