// Fuzz target: any bytes as an image. They are decoded, or refused as a bad image; nothing else
// happens.
//
// Random changes hardly ever get past the digests, so every input is tried a second time with its
// digests set right: that is what an enemy would send.
#include <cstdlib>
#include <cstring>
#include <span>

#include "image/elf_layout.h"
#include "image/format.h"

using namespace rfork;
using namespace rfork::image;

namespace {

constexpr size_t kSizeOffset = sizeof(Elf64_Ehdr) + offsetof(Elf64_Shdr, sh_addr);

void read(std::span<const std::byte> image) {
  try {
    const uint64_t size = metadata_size(image.first(std::min(image.size(), kPrefixSize)));
    const Metadata metadata = decode_metadata(image.first(std::min<uint64_t>(image.size(), size)));
    Verifier verifier(metadata);
    const auto rest = image.subspan(size);
    const auto data = rest.first(std::min<uint64_t>(rest.size(), metadata.data_size));
    verifier.absorb(data);
    verifier.check(rest.subspan(data.size()));
  } catch (const Refusal& refusal) {
    if (refusal.failure() != Failure::bad_image) std::abort();
  }
}

/// Sets the digests of the prefix and of the metadata right, where there are any.
void reseal(Bytes& image) {
  if (image.size() < kPrefixSize) return;
  const uint64_t digest = short_digest_of(std::span(image).first(kPrefixDigestOffset));
  std::memcpy(image.data() + kPrefixDigestOffset, &digest, sizeof digest);
  uint64_t size;
  std::memcpy(&size, image.data() + kSizeOffset, sizeof size);
  if (size > image.size() || size < kPrefixSize + sizeof(Seal)) return;
  const Digest seal = digest_of(std::span(image).first(size - sizeof(Digest)));
  std::memcpy(image.data() + size - sizeof(Digest), seal.data(), sizeof seal);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  read(bytes);
  Bytes resealed(bytes.begin(), bytes.end());
  reseal(resealed);
  read(resealed);
  return 0;
}
