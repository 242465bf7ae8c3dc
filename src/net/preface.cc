#include "net/preface.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace rfork::net {

namespace {

// The first byte has its top bit set and the last two are a line end: neither a text protocol nor a
// transfer that rewrites line ends can look like it (the idea is PNG's).
constexpr std::array<uint8_t, kPrefaceMagicSize> kMagic = {0x89, 'R', 'F',  'O',
                                                           'R',  'K', '\r', '\n'};

}  // namespace

std::array<std::byte, kPrefaceSize> encode_preface(const Preface& preface) {
  std::array<std::byte, kPrefaceSize> bytes{};
  std::ranges::transform(kMagic, bytes.begin(), [](uint8_t c) { return std::byte{c}; });
  bytes[8] = static_cast<std::byte>(preface.version & 0xff);
  bytes[9] = static_cast<std::byte>(preface.version >> 8);
  bytes[10] = static_cast<std::byte>(preface.mode);
  return bytes;
}

bool is_preface(std::span<const std::byte> bytes) {
  const size_t size = std::min(bytes.size(), kMagic.size());
  return std::equal(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size), kMagic.begin(),
                    [](std::byte a, uint8_t b) { return a == std::byte{b}; });
}

void check_preface(std::span<const std::byte, kPrefaceSize> bytes, Role role, Mode mode,
                   const std::string& peer) {
  const auto refuse = [&](std::string what, std::string advice) {
    throw Refusal(Failure::destination_refused, peer + std::move(what), std::move(advice));
  };
  const bool client = role == Role::client;
  if (!is_preface(bytes)) {
    throw Refusal(Failure::connection_lost,
                  peer + (client ? " is no rforkd" : " does not speak rfork's protocol"),
                  client ? "check the port" : "");
  }
  const unsigned version = static_cast<unsigned>(bytes[8]) | (static_cast<unsigned>(bytes[9]) << 8);
  if (version != kProtocolVersion) {
    refuse(
        fmt::format(" runs {} rfork: it speaks protocol {}, this is {}",
                    version < kProtocolVersion ? "an older" : "a later", version, kProtocolVersion),
        "install the same version of rfork on both hosts");
  }
  const Mode theirs = static_cast<Mode>(bytes[10]);
  if (client && theirs == Mode::busy) {
    refuse(" has too many connections", "try again later");
  }
  if (client && theirs == Mode::user) {
    refuse(" runs without a key and serves only its own user",
           "be that user, or give both sides a key (rforkd --key FILE)");
  }
  if (theirs == mode) return;
  if (theirs == Mode::key) {
    refuse(client ? " wants a key" : " has a key, and this side has none",
           client ? "--key FILE" : "start rforkd with --key FILE");
  }
  if (theirs == Mode::plain) {
    refuse(client ? " runs without a key" : " came without a key",
           client ? "leave --key out, or start it with --key FILE" : "");
  }
  refuse(
      fmt::format(" wants mode {}, which this version does not know", static_cast<int>(bytes[10])),
      "install the same version of rfork on both hosts");
}

}  // namespace rfork::net
