// How the frames of relays begin, and how much of what may be in them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "net/frame.h"
#include "session/relays.h"  // kRelayHeadSize

namespace rfork::session {

inline constexpr uint64_t kWindow = 256u << 10;  ///< of one stream, on its way
inline constexpr size_t kPiece = 64u << 10;      ///< of one frame
inline constexpr size_t kQueued = 512u << 10;    ///< in all, before sources wait for the connection
/// What a pipe holds: sent at its writer's end in any case.
inline constexpr uint64_t kLastWords = 1u << 20;
inline constexpr uint64_t kReportEvery = 64u << 10;  ///< bytes

/// In the place of the position of RELAY_BROKEN.
inline constexpr uint64_t kShut = 0;
inline constexpr uint64_t kClosed = 1;  ///< what its writer wrote before may be on its way still

/// Behind the head of RELAY_CLOSED: the connection was reset.
inline constexpr uint8_t kReset = 1;

struct RelayHead {
  uint32_t stream = 0;
  uint64_t position = 0;
};

std::array<std::byte, kRelayHeadSize> encode_head(uint32_t stream, uint64_t position);
/// Throws as refuse().
RelayHead decode_head(net::FrameType type, std::span<const std::byte> body);
/// Throws Refusal(connection_lost).
[[noreturn]] void refuse(net::FrameType type, std::string_view why);

}  // namespace rfork::session
