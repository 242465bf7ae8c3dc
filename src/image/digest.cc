#include "image/digest.h"

#include <algorithm>

#include "image/xxh3.h"

namespace rfork::image {

namespace {

const Xxh3& xxh3() {
  static const Xxh3& widest = *usable_xxh3().back();
  return widest;
}

unsigned char* raw(Digest& digest) {
  return reinterpret_cast<unsigned char*>(digest.data());
}

}  // namespace

Digest digest_of(std::span<const std::byte> bytes) {
  Digest digest;
  xxh3().long_of(bytes.data(), bytes.size(), raw(digest));
  return digest;
}

uint64_t short_digest_of(std::span<const std::byte> bytes) {
  return xxh3().short_of(bytes.data(), bytes.size());
}

struct DigestStream::State {
  Xxh3State hash;
};

DigestStream::DigestStream() : state_(new State) {
  xxh3().reset(state_->hash);
}
DigestStream::~DigestStream() = default;

void DigestStream::absorb(std::span<const std::byte> bytes) {
  xxh3().absorb(state_->hash, bytes.data(), bytes.size());
}

Digest DigestStream::digest() const {
  Digest digest;
  xxh3().long_digest(state_->hash, raw(digest));
  return digest;
}

struct BlockDigests::State {
  Xxh3State hash;
};

BlockDigests::BlockDigests() : state_(new State) {
  xxh3().reset(state_->hash);
}
BlockDigests::~BlockDigests() = default;

void BlockDigests::absorb(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const uint64_t in_block = absorbed_ % kBlockSize;
    const auto piece = bytes.first(std::min<uint64_t>(bytes.size(), kBlockSize - in_block));
    bytes = bytes.subspan(piece.size());
    absorbed_ += piece.size();
    if (piece.size() == kBlockSize) {
      digests_.push_back(xxh3().short_of(piece.data(), piece.size()));
      continue;
    }
    xxh3().absorb(state_->hash, piece.data(), piece.size());
    if (absorbed_ % kBlockSize == 0) {
      digests_.push_back(xxh3().short_digest(state_->hash));
      xxh3().reset(state_->hash);
    }
  }
}

const std::vector<uint64_t>& BlockDigests::finish() {
  if (digests_.size() < count_for(absorbed_)) {
    digests_.push_back(xxh3().short_digest(state_->hash));
  }
  return digests_;
}

}  // namespace rfork::image
