// The image as a stream of bytes: an ELF64 ET_CORE, written and read front to back in one pass.
//
//   ELF header | section header 0 (PN_XNUM) | program headers | notes | seal | page data | trailer
//
// Nothing here reads or writes a file: the encoder gives bytes and absorbs the page data that the
// caller puts between them, the decoder is handed bytes. So the same code serves files, pipes and
// connections, and tests without any of them. docs/image-format.md describes every byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "image/model.h"

namespace rfork::image {

inline constexpr uint64_t kPageSize = 4096;  ///< of the format; equals the host's on x86-64
inline constexpr size_t kPrefixSize = 128;   ///< ELF header and section header 0
inline constexpr uint64_t kMaxMetadata = 1u
                                         << 30;  ///< more than this before the page data is refused

/// Writes an image. Order of calls: metadata() once, absorb() for all data, trailer() once.
class Encoder {
 public:
  /// `runs` in the order in which their bytes will be absorbed. They must not overlap, and must lie
  /// in mappings of their process or within their object's size: std::invalid_argument otherwise.
  Encoder(const Snapshot& snapshot, std::span<const DataRun> runs);
  ~Encoder();

  /// Everything before the page data; a multiple of kPageSize long.
  std::span<const std::byte> metadata() const;
  /// Bytes of page data that must be absorbed (each run padded to a page).
  uint64_t data_size() const;
  /// Size of the whole image.
  uint64_t total_size() const;
  /// Digests the next bytes of page data, which the caller writes out itself. Any split is fine.
  void absorb(std::span<const std::byte> data);
  /// The end of the image. Throws std::logic_error unless exactly data_size() bytes were absorbed.
  Bytes trailer();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// What stands before the page data.
struct Metadata {
  Snapshot snapshot;
  std::vector<DataRun> runs;  ///< in stream order
  uint64_t data_offset = 0;   ///< of the page data in the image
  uint64_t data_size = 0;
  uint64_t trailer_size = 0;
  uint64_t total_size = 0;
};

// Every function below throws Refusal(Failure::bad_image) that names the byte offset and the field
// when the bytes are no image, an image of a later version, cut or altered. No length, count or
// offset is believed before it is checked.

/// How many bytes the metadata has in all (prefix included), from the first kPrefixSize bytes.
/// `prefix` may be shorter when the input ended: then the refusal says what the input is (empty, an
/// ELF program, an ordinary core file, ...).
uint64_t metadata_size(std::span<const std::byte> prefix);

/// Checks the seal and decodes. `bytes` are the metadata_size() first bytes; fewer means the image
/// is cut.
Metadata decode_metadata(std::span<const std::byte> bytes);

/// Refuses bytes that a cut image lacks: "the image is cut at byte N of M".
[[noreturn]] void refuse_cut(uint64_t at_byte, uint64_t of_bytes);

/// Checks page data against the trailer.
class Verifier {
 public:
  explicit Verifier(const Metadata& metadata);
  ~Verifier();
  /// The next bytes of page data, in any split.
  void absorb(std::span<const std::byte> data);
  /// Compares with the trailer (Metadata::trailer_size bytes). Refuses, with the offset of the
  /// first block that is altered. Page data must not run before this returned.
  void check(std::span<const std::byte> trailer);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Where a run's bytes start in the page data area; runs are packed, each padded to kPageSize.
inline uint64_t padded_size(const DataRun& run) {
  return (run.range.size() + kPageSize - 1) & ~(kPageSize - 1);
}

}  // namespace rfork::image
