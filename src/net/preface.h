// The first 16 bytes in each direction, in clear, so that a wrong pair of ends gets a clear
// sentence instead of a TLS alert:
//
//   8 bytes magic | u16 protocol version, little-endian | u8 mode | 5 zero bytes
//
// Both ends send theirs at once and read the other's. It is not authenticated and needs not be:
// each end decides by its own key alone whether it talks TLS, so an altered preface can only break
// the connection. An end that has a key never talks plain.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rfork::net {

inline constexpr uint16_t kProtocolVersion = 2;
inline constexpr size_t kPrefaceSize = 16;
inline constexpr size_t kPrefaceMagicSize = 8;

enum class Mode : uint8_t {
  plain = 0,
  key = 1,   ///< TLS follows
  busy = 2,  ///< a daemon that has too many connections; it closes
  user = 3,  ///< a daemon without a key that doesn't serve this user; it closes
};

enum class Role { client, server };

struct Preface {
  uint16_t version = kProtocolVersion;
  Mode mode = Mode::plain;
};

std::array<std::byte, kPrefaceSize> encode_preface(const Preface& preface);

/// Whether `bytes` (up to kPrefaceSize of them) can be the beginning of a preface.
bool is_preface(std::span<const std::byte> bytes);

/// Checks that the sender of a whole preface and this end (`role`, `mode`) can talk. Throws
/// Refusal(connection_lost) when it is no preface, Refusal(destination_refused) with what to do
/// about it when the two don't fit; `peer` is the other end's name in the text.
void check_preface(std::span<const std::byte, kPrefaceSize> bytes, Role role, Mode mode,
                   const std::string& peer);

}  // namespace rfork::net
