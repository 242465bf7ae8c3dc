#include <fmt/format.h>

#include <cstring>
#include <stdexcept>

#include "image/elf_layout.h"
#include "image/format.h"

namespace rfork::image {

namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Refusal(Failure::bad_image, what, "make or copy it again");
}

}  // namespace

struct Verifier::State {
  uint64_t data_offset = 0, data_size = 0, trailer_size = 0, total_size = 0;
  BlockDigests blocks;
};

Verifier::Verifier(const Metadata& metadata) : state_(std::make_unique<State>()) {
  state_->data_offset = metadata.data_offset;
  state_->data_size = metadata.data_size;
  state_->trailer_size = metadata.trailer_size;
  state_->total_size = metadata.total_size;
}

Verifier::~Verifier() = default;

void Verifier::absorb(std::span<const std::byte> data) {
  state_->blocks.absorb(data);
}

void Verifier::check(std::span<const std::byte> trailer) {
  const uint64_t at = state_->data_offset + state_->data_size;
  if (state_->blocks.absorbed() != state_->data_size) {
    refuse_cut(state_->data_offset + state_->blocks.absorbed(), state_->total_size);
  }
  if (trailer.size() != state_->trailer_size) refuse_cut(at + trailer.size(), state_->total_size);

  TrailerHead head;
  TrailerEnd end;
  std::memcpy(&head, trailer.data(), sizeof head);
  std::memcpy(&end, trailer.data() + trailer.size() - sizeof end, sizeof end);
  if (digest_of(trailer.first(trailer.size() - sizeof end.digest)) != end.digest) {
    refuse(
        fmt::format("the image is altered in its trailer, bytes {} to {}", at, state_->total_size));
  }
  const std::vector<uint64_t>& digests = state_->blocks.finish();
  if (std::memcmp(head.magic, kTrailerMagic, sizeof head.magic) != 0 ||
      head.version != kFormatVersion || head.block_size != BlockDigests::kBlockSize ||
      head.count != digests.size() || end.total_size != state_->total_size) {
    refuse(fmt::format("the image has a wrong trailer at byte {}", at));
  }
  for (size_t i = 0; i < digests.size(); ++i) {
    uint64_t expected;
    std::memcpy(&expected, trailer.data() + sizeof head + i * sizeof expected, sizeof expected);
    if (expected == digests[i]) continue;
    const uint64_t block = state_->data_offset + i * BlockDigests::kBlockSize;
    refuse(
        fmt::format("the image is altered in its page data, in the {} bytes from byte {}: their "
                    "digest doesn't match",
                    std::min(BlockDigests::kBlockSize, at - block), block));
  }
}

}  // namespace rfork::image
