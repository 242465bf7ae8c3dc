// Compiled once for each width of registers, with RFORK_XXH3_NAME for what it defines. Uses no
// inline function of the standard library: the linker could take the one that was compiled for
// AVX-512 for all of the program.
#include "image/xxh3.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace rfork::image {

namespace {

XXH3_state_t* own(Xxh3State& state) {
  return reinterpret_cast<XXH3_state_t*>(state.bytes);
}
const XXH3_state_t* own(const Xxh3State& state) {
  return reinterpret_cast<const XXH3_state_t*>(state.bytes);
}
static_assert(sizeof(XXH3_state_t) == sizeof(Xxh3State) &&
              alignof(XXH3_state_t) <= alignof(Xxh3State));

void put_canonical(XXH128_hash_t hash, unsigned char digest[16]) {
  XXH128_canonicalFromHash(reinterpret_cast<XXH128_canonical_t*>(digest), hash);
}

}  // namespace

// The states of both lengths are the same, and what is done with them until they are asked for a
// digest.
extern const Xxh3 RFORK_XXH3_NAME;
const Xxh3 RFORK_XXH3_NAME = {
    [](const void* data, size_t size) -> uint64_t { return XXH3_64bits(data, size); },
    [](const void* data, size_t size, unsigned char digest[16]) {
      put_canonical(XXH3_128bits(data, size), digest);
    },
    [](Xxh3State& state) { XXH3_128bits_reset(own(state)); },
    [](Xxh3State& state, const void* data, size_t size) {
      XXH3_128bits_update(own(state), data, size);
    },
    [](const Xxh3State& state) -> uint64_t { return XXH3_64bits_digest(own(state)); },
    [](const Xxh3State& state, unsigned char digest[16]) {
      put_canonical(XXH3_128bits_digest(own(state)), digest);
    },
};

}  // namespace rfork::image
