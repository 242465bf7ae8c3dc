// Where everything stands in an image, in numbers: the constants of the format, and the program
// headers that a snapshot and its runs come to. docs/image-format.md describes the same in words.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "image/digest.h"
#include "image/model.h"

namespace rfork::image {

/// Version of the layout. Notes have versions of their own.
inline constexpr uint16_t kFormatVersion = 1;

/// e_ident's padding tells our core files from the kernel's: these bytes, then the version
/// (little-endian).
inline constexpr char kMark[] = {'R', 'F', 'O', 'R', 'K'};
inline constexpr size_t kMarkOffset = EI_PAD;
inline constexpr size_t kVersionOffset = EI_PAD + sizeof kMark;

/// Section header 0 has these in fields that mean nothing to others in a section of type SHT_NULL.
///   sh_addr     size of the metadata
///   sh_entsize  XXH3-64 of the prefix up to here
inline constexpr size_t kPrefixDigestOffset = sizeof(Elf64_Ehdr) + offsetof(Elf64_Shdr, sh_entsize);

// Segment types between PT_LOOS and PT_HIOS.
inline constexpr uint32_t kSegmentMemory = 0x60524601;  ///< a run in a process other than the first
inline constexpr uint32_t kSegmentObject = 0x60524602;  ///< a run of an object
/// Flag of a PT_LOAD that shows bytes of an object to debuggers and is no run itself.
inline constexpr uint32_t kFlagAlias = 0x00100000;

/// The last bytes of the metadata.
struct Seal {
  char magic[8];
  uint32_t version;
  uint32_t block_size;   ///< of the digests in the trailer
  uint64_t data_offset;  ///< equals the size of the metadata
  uint64_t data_size;
  uint64_t trailer_size;
  uint64_t total_size;
  Digest digest;  ///< of all bytes before this field
};
static_assert(sizeof(Seal) == 64);
inline constexpr char kSealMagic[8] = {'R', 'F', 'S', 'E', 'A', 'L', '\r', '\n'};

/// The head of the trailer; `count` digests of blocks and a TrailerEnd follow.
struct TrailerHead {
  char magic[8];
  uint32_t version;
  uint32_t block_size;
  uint64_t count;
};
static_assert(sizeof(TrailerHead) == 24);
struct TrailerEnd {
  uint64_t total_size;
  Digest digest;  ///< of the trailer's bytes before this field
};
static_assert(sizeof(TrailerEnd) == 24);
inline constexpr char kTrailerMagic[8] = {'R', 'F', 'T', 'A', 'I', 'L', '\r', '\n'};

inline uint64_t trailer_size_for(uint64_t data_size) {
  return sizeof(TrailerHead) + BlockDigests::count_for(data_size) * sizeof(uint64_t) +
         sizeof(TrailerEnd);
}

/// A run and where its bytes start in the page data.
struct PlacedRun {
  DataRun run;
  uint64_t position = 0;
};

/// The program headers behind PT_NOTE. For the first process: one PT_LOAD for each run, and for
/// what is not carried one that shows an object's bytes or has no file size. Other processes and
/// objects have segments of our own types, so that a debugger sees the first process, whole and
/// alone.
class SegmentPlan {
 public:
  /// Borrows `snapshot`. Takes runs that validate() accepts.
  SegmentPlan(const Snapshot& snapshot, std::span<const DataRun> runs);

  size_t count() const { return count_; }
  uint64_t data_size() const { return data_size_; }
  /// Gives them one after the other, for page data that starts at `data_offset`.
  void for_each(uint64_t data_offset, const std::function<void(const Elf64_Phdr&)>& give) const;

 private:
  using Give = std::function<void(const Elf64_Phdr&)>;
  void mapping_segments(const Mapping& mapping, uint64_t data_offset, const Give& give) const;
  void gap_segments(const Mapping& mapping, Range gap, uint64_t data_offset,
                    const Give& give) const;
  std::span<const PlacedRun> runs_of(DataRun::Target target, uint32_t owner) const;
  std::optional<uint32_t> object_behind(const Mapping& mapping) const;

  const Snapshot& snapshot_;
  std::vector<PlacedRun> runs_;                                  // by target, owner and address
  std::vector<std::pair<uint32_t, uint32_t>> objects_of_files_;  // File id, Object id; sorted
  uint64_t data_size_ = 0;
  size_t count_ = 0;
};

}  // namespace rfork::image
