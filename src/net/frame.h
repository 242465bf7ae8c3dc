// Frames: what travels on a connection once both ends trust each other.
//
//   u32 length of the body, little-endian | u8 type | body
//
// A DATA frame's body is raw bytes of the image; every other body is one CBOR item (src/session
// knows which). The caps stand here, because a length must be judged before the body is read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/io.h"

namespace rfork::net {

enum class FrameType : uint8_t {
  // A restore, in this order. `refused` and `abort` may come at any time.
  offer = 1,
  answer = 2,
  data = 3,
  end = 4,
  ready = 5,
  go = 6,
  running = 7,
  refused = 8,
  abort = 9,
  check = 10,      ///< in the place of an offer: what would become of it?
  judgement = 11,  ///< of a check: once of the offer, once of the image without its pages
  // Questions to a daemon, and what comes back.
  resolve = 16,
  resolution = 17,
  list = 18,
  child = 19,  ///< one for each child
  logs = 20,
  log = 21,  ///< a piece of a log
  kill = 22,
  wait = 23,
  remove = 24,
  waiting = 25,  ///< nothing new, but still here
  done = 26,
  attend = 27,  ///< a ghost, to the agent of its child: its connection was lost
  events = 28,
  event = 29,   ///< one for each event
  missed = 30,  ///< so many are not kept any more
  // A child and its ghost, after RUNNING, in any order: docs/protocol.md.
  relay = 32,         ///< u32 stream, u64 offset, then raw bytes
  relay_taken = 33,   ///< u32 stream, u64 bytes in all that have reached the other side's end
  relay_end = 34,     ///< u32 stream, u64 offset: no byte will come behind it
  relay_broken = 35,  ///< u32 stream, u64 0 or 1: nobody reads there what comes
  relay_ready = 38,   ///< u32 stream, u64 0: there is something to read, for who wants it
  relay_wanted = 39,  ///< u32 stream, u64 0: somebody reads there
  relay_closed = 44,  ///< u32 stream, u64 offset: as relay_end, and nobody has that end any more
  relay_window = 40,  ///< u32 stream, struct winsize: of a terminal
  relay_modes = 43,   ///< u32 stream, u64 0, struct termios2: of a terminal, before CHILD_STATE
  signal = 36,        ///< i32: to the child
  child_state = 37,   ///< what became of the child
  received = 41,      ///< u64 bytes of frames since RUNNING: they need not be kept any longer
  resume = 42,        ///< the same, first on a new connection: what follows it comes again
};

inline constexpr size_t kFrameHeaderSize = 5;
inline constexpr size_t kMaxControlBody = 1u << 20;
inline constexpr size_t kMaxOfferBody = 16u << 20;
inline constexpr size_t kMaxDataBody = 1u << 20;
inline constexpr size_t kMaxRelayBody = 128u << 10;

/// "OFFER", "DATA", ...; "?" for a type that doesn't exist.
std::string_view name_of(FrameType type);
/// The largest body that a frame of this type may have; nullopt for a type that doesn't exist.
std::optional<size_t> max_body(FrameType type);

struct FrameHeader {
  FrameType type = FrameType::abort;
  uint32_t size = 0;  ///< of the body
};

struct Frame {
  FrameType type = FrameType::abort;
  Bytes body;
};

std::array<std::byte, kFrameHeaderSize> encode_header(FrameHeader header);
/// Throws Refusal(connection_lost) that names the type or the length when it is no frame of ours.
FrameHeader decode_header(std::span<const std::byte, kFrameHeaderSize> bytes);

}  // namespace rfork::net
