// XXH3 for each width of registers, and the one that this processor can do.
//
// libxxhash has such a dispatch, but only as a shared library: Debian's archive lacks it, and
// rfork-run has no shared libraries. So its header is compiled once for each width (xxh3.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rfork::image {

/// Bytes that come in pieces.
struct alignas(64) Xxh3State {
  unsigned char bytes[576];
};

struct Xxh3 {
  uint64_t (*short_of)(const void* data, size_t size);
  /// Canonical (big-endian).
  void (*long_of)(const void* data, size_t size, unsigned char digest[16]);

  void (*reset)(Xxh3State& state);
  void (*absorb)(Xxh3State& state, const void* data, size_t size);
  uint64_t (*short_digest)(const Xxh3State& state);
  void (*long_digest)(const Xxh3State& state, unsigned char digest[16]);
};

/// Those that this processor can do, the slowest first; never empty. All give the same.
std::vector<const Xxh3*> usable_xxh3();

}  // namespace rfork::image
