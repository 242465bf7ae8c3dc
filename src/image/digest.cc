#include "image/digest.h"

#include <algorithm>
#include <new>

#define XXH_STATIC_LINKING_ONLY  // for XXH3_state_t
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>  // the same functions, as fast as this processor can
#endif

namespace rfork::image {

namespace {

Digest canonical(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  Digest digest;
  std::copy_n(reinterpret_cast<const std::byte*>(bytes.digest), digest.size(), digest.begin());
  return digest;
}

}  // namespace

Digest digest_of(std::span<const std::byte> bytes) {
  return canonical(XXH3_128bits(bytes.data(), bytes.size()));
}

uint64_t short_digest_of(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

struct DigestStream::State {
  XXH3_state_t hash;
};

DigestStream::DigestStream() : state_(new State) {
  XXH3_128bits_reset(&state_->hash);
}
DigestStream::~DigestStream() = default;

void DigestStream::absorb(std::span<const std::byte> bytes) {
  XXH3_128bits_update(&state_->hash, bytes.data(), bytes.size());
}

Digest DigestStream::digest() const {
  return canonical(XXH3_128bits_digest(&state_->hash));
}

struct BlockDigests::State {
  XXH3_state_t hash;
};

BlockDigests::BlockDigests() : state_(new State) {
  XXH3_64bits_reset(&state_->hash);
}
BlockDigests::~BlockDigests() = default;

void BlockDigests::absorb(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const uint64_t in_block = absorbed_ % kBlockSize;
    const auto piece = bytes.first(std::min<uint64_t>(bytes.size(), kBlockSize - in_block));
    bytes = bytes.subspan(piece.size());
    absorbed_ += piece.size();
    if (piece.size() == kBlockSize) {
      digests_.push_back(XXH3_64bits(piece.data(), piece.size()));
      continue;
    }
    XXH3_64bits_update(&state_->hash, piece.data(), piece.size());
    if (absorbed_ % kBlockSize == 0) {
      digests_.push_back(XXH3_64bits_digest(&state_->hash));
      XXH3_64bits_reset(&state_->hash);
    }
  }
}

const std::vector<uint64_t>& BlockDigests::finish() {
  if (digests_.size() < count_for(absorbed_)) {
    digests_.push_back(XXH3_64bits_digest(&state_->hash));
  }
  return digests_;
}

}  // namespace rfork::image
