#include "net/frame.h"

#include <fmt/format.h>

#include "base/error.h"

namespace rfork::net {

std::string_view name_of(FrameType type) {
  switch (type) {
    case FrameType::offer:
      return "OFFER";
    case FrameType::answer:
      return "ANSWER";
    case FrameType::data:
      return "DATA";
    case FrameType::end:
      return "END";
    case FrameType::ready:
      return "READY";
    case FrameType::go:
      return "GO";
    case FrameType::running:
      return "RUNNING";
    case FrameType::refused:
      return "REFUSED";
    case FrameType::abort:
      return "ABORT";
    case FrameType::check:
      return "CHECK";
    case FrameType::judgement:
      return "JUDGEMENT";
    case FrameType::resolve:
      return "RESOLVE";
    case FrameType::resolution:
      return "RESOLUTION";
    case FrameType::list:
      return "LIST";
    case FrameType::child:
      return "CHILD";
    case FrameType::logs:
      return "LOGS";
    case FrameType::log:
      return "LOG";
    case FrameType::kill:
      return "KILL";
    case FrameType::wait:
      return "WAIT";
    case FrameType::remove:
      return "REMOVE";
    case FrameType::waiting:
      return "WAITING";
    case FrameType::done:
      return "DONE";
    case FrameType::attend:
      return "ATTEND";
    case FrameType::events:
      return "EVENTS";
    case FrameType::event:
      return "EVENT";
    case FrameType::missed:
      return "MISSED";
    case FrameType::relay:
      return "RELAY";
    case FrameType::relay_taken:
      return "RELAY_TAKEN";
    case FrameType::relay_end:
      return "RELAY_END";
    case FrameType::relay_broken:
      return "RELAY_BROKEN";
    case FrameType::relay_closed:
      return "RELAY_CLOSED";
    case FrameType::relay_ready:
      return "RELAY_READY";
    case FrameType::relay_wanted:
      return "RELAY_WANTED";
    case FrameType::relay_window:
      return "RELAY_WINDOW";
    case FrameType::relay_modes:
      return "RELAY_MODES";
    case FrameType::signal:
      return "SIGNAL";
    case FrameType::child_state:
      return "CHILD_STATE";
    case FrameType::received:
      return "RECEIVED";
    case FrameType::resume:
      return "RESUME";
  }
  return "?";
}

std::optional<size_t> max_body(FrameType type) {
  if (type == FrameType::offer || type == FrameType::check) return kMaxOfferBody;
  if (type == FrameType::data) return kMaxDataBody;
  if (type == FrameType::relay) return kMaxRelayBody;
  if (name_of(type) == "?") return std::nullopt;
  return kMaxControlBody;
}

std::array<std::byte, kFrameHeaderSize> encode_header(FrameHeader header) {
  std::array<std::byte, kFrameHeaderSize> bytes{};
  for (size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(header.size >> (8 * i));
  bytes[4] = static_cast<std::byte>(header.type);
  return bytes;
}

FrameHeader decode_header(std::span<const std::byte, kFrameHeaderSize> bytes) {
  FrameHeader header;
  for (size_t i = 0; i < 4; ++i) header.size |= static_cast<uint32_t>(bytes[i]) << (8 * i);
  header.type = static_cast<FrameType>(bytes[4]);
  const std::optional<size_t> cap = max_body(header.type);
  if (!cap) {
    throw Refusal(Failure::connection_lost,
                  fmt::format("a frame of unknown type {}", static_cast<int>(bytes[4])));
  }
  if (header.size > *cap) {
    throw Refusal(Failure::connection_lost,
                  fmt::format("a frame {} of {} bytes, where {} is the most", name_of(header.type),
                              header.size, *cap));
  }
  return header;
}

}  // namespace rfork::net
