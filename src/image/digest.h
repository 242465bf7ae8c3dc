// The digests of an image: XXH3, which keeps up with memory. They find accidents; an image that an
// enemy wrote can have right digests, so the decoder checks everything that it reads as well.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace rfork::image {

/// XXH3-128 in its canonical (big-endian) form.
using Digest = std::array<std::byte, 16>;

Digest digest_of(std::span<const std::byte> bytes);
uint64_t short_digest_of(std::span<const std::byte> bytes);

/// XXH3-128 of bytes that come in pieces.
class DigestStream {
 public:
  DigestStream();
  ~DigestStream();
  void absorb(std::span<const std::byte> bytes);
  Digest digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// XXH3-64 of each block of kBlockSize bytes, the last one shorter, of bytes that come in pieces.
class BlockDigests {
 public:
  static constexpr uint64_t kBlockSize = 1u << 20;

  BlockDigests();
  ~BlockDigests();
  void absorb(std::span<const std::byte> bytes);
  uint64_t absorbed() const { return absorbed_; }
  /// Closes the last block. Nothing may be absorbed afterwards.
  const std::vector<uint64_t>& finish();

  static uint64_t count_for(uint64_t size) { return size / kBlockSize + (size % kBlockSize != 0); }

 private:
  struct State;
  std::unique_ptr<State> state_;
  uint64_t absorbed_ = 0;
  std::vector<uint64_t> digests_;
};

}  // namespace rfork::image
