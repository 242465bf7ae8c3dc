// Reads what stands before the page data. The order of the checks is the order of trust: is this
// ours, is it whole, is it unaltered, and only then what does it say, and does that hang together.
#include <fmt/format.h>
#include <gelf.h>
#include <libelf.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "image/elf_layout.h"
#include "image/format.h"
#include "image/json.h"
#include "image/notes.h"
#include "image/validate.h"

namespace rfork::image {

namespace {

constexpr const char* kAdvice = "make or copy it again";

struct ElfCloser {
  void operator()(Elf* elf) const { elf_end(elf); }
};
using UniqueElf = std::unique_ptr<Elf, ElfCloser>;

[[noreturn]] void refuse(const std::string& what, const std::string& advice = kAdvice) {
  throw Refusal(Failure::bad_image, what, advice);
}

template <typename T>
T load(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// Refuses anything but the header of an image of this version.
void check_kind(std::span<const std::byte> prefix) {
  if (prefix.empty()) refuse("the image is empty (0 bytes)");
  const size_t seen = std::min<size_t>(prefix.size(), SELFMAG);
  if (std::memcmp(prefix.data(), ELFMAG, seen) != 0) {
    refuse("this is no rfork image: there is no ELF header at byte 0", "");
  }
  if (prefix.size() < kPrefixSize) refuse_cut(prefix.size(), kPrefixSize);
  const auto header = load<Elf64_Ehdr>(prefix, 0);
  if (header.e_ident[EI_CLASS] != ELFCLASS64) {
    refuse("this is a 32-bit ELF file, no rfork image (byte 4)", "");
  }
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) {
    refuse("this is a big-endian ELF file, no rfork image (byte 5)", "");
  }
  if (header.e_type == ET_EXEC || header.e_type == ET_DYN) {
    refuse("this is an ELF program or library, no rfork image (byte 16)",
           "rfork-trace PID -o FILE makes an image of a running program");
  }
  if (header.e_type != ET_CORE) refuse("this is no rfork image: no ELF core file (byte 16)", "");
  if (std::memcmp(header.e_ident + kMarkOffset, kMark, sizeof kMark) != 0) {
    refuse("this is an ordinary core file, no rfork image (byte 9)",
           "a core file doesn't hold what it takes to go on; rfork-trace PID -o FILE does");
  }
  const auto version = load<uint16_t>(prefix, kVersionOffset);
  if (version > kFormatVersion) {
    refuse(fmt::format("the image has format version {} (byte {}), this program reads version {}",
                       version, kVersionOffset, kFormatVersion),
           "use the rfork that wrote it, or a later one");
  }
}

/// The seal, checked against the bytes before it.
Seal open_seal(std::span<const std::byte> metadata) {
  const size_t at = metadata.size() - sizeof(Seal);
  const auto seal = load<Seal>(metadata, at);
  if (digest_of(metadata.first(metadata.size() - sizeof seal.digest)) != seal.digest) {
    refuse(
        fmt::format("the image is altered in its header or notes, bytes 0 to {}: their digest "
                    "doesn't match",
                    metadata.size()));
  }
  if (std::memcmp(seal.magic, kSealMagic, sizeof seal.magic) != 0 ||
      seal.version != kFormatVersion || seal.block_size != BlockDigests::kBlockSize ||
      seal.data_offset != metadata.size()) {
    refuse(fmt::format("the image has a wrong seal at byte {}", at));
  }
  return seal;
}

/// Number of program headers, with those and the notes within the metadata.
size_t count_segments(Elf* elf, std::span<const std::byte> metadata) {
  const auto header = load<Elf64_Ehdr>(metadata, 0);
  size_t count = 0;
  if (elf_getphdrnum(elf, &count) != 0 || header.e_phoff != kPrefixSize ||
      header.e_phentsize != sizeof(Elf64_Phdr)) {
    refuse("the image has a wrong ELF header (e_phoff at byte 32)");
  }
  if (count == 0 || count > (metadata.size() - kPrefixSize - sizeof(Seal)) / sizeof(Elf64_Phdr)) {
    refuse(fmt::format("the image has {} program headers (e_phnum at byte 56), which don't fit",
                       count));
  }
  return count;
}

std::optional<DataRun> run_of(const Elf64_Phdr& header) {
  const bool load = header.p_type == PT_LOAD && (header.p_flags & kFlagAlias) == 0;
  const bool ours = header.p_type == kSegmentMemory || header.p_type == kSegmentObject;
  if ((!load && !ours) || header.p_filesz == 0) return std::nullopt;
  const auto range = Range::sized(header.p_vaddr, header.p_filesz);
  if (!range || header.p_paddr > UINT32_MAX || (load && header.p_paddr != 0)) {
    throw FieldError("p_vaddr", "is out of range");
  }
  return DataRun{
      header.p_type == kSegmentObject ? DataRun::Target::object : DataRun::Target::memory,
      static_cast<uint32_t>(header.p_paddr), *range};
}

/// The runs in the order of the stream, which must fill the page data without gaps.
std::vector<DataRun> read_runs(Elf* elf, size_t count, const Seal& seal) {
  std::vector<std::pair<uint64_t, DataRun>> placed;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = kPrefixSize + i * sizeof(Elf64_Phdr);
    GElf_Phdr header;
    if (gelf_getphdr(elf, static_cast<int>(i), &header) == nullptr) {
      refuse(fmt::format("the image has a wrong program header at byte {}", at));
    }
    try {
      if (const auto run = run_of(header)) placed.emplace_back(header.p_offset, *run);
    } catch (const FieldError& error) {
      refuse(fmt::format("the program header at byte {}: {}", at, error.what()));
    }
  }
  std::ranges::sort(placed, {}, &std::pair<uint64_t, DataRun>::first);
  std::vector<DataRun> runs;
  runs.reserve(placed.size());
  uint64_t next = seal.data_offset;
  const uint64_t end = seal.data_offset + seal.data_size;
  for (const auto& [offset, run] : placed) {
    // The size before the padded size: rounding up could wrap around.
    if (offset != next || run.range.size() > end - next || padded_size(run) > end - next) {
      refuse(fmt::format("the runs don't fill the page data at byte {}", next));
    }
    next += padded_size(run);
    runs.push_back(run);
  }
  if (next != end) refuse(fmt::format("the runs don't fill the page data at byte {}", next));
  return runs;
}

void check_sizes(const Seal& seal, size_t at) {
  uint64_t total;
  if (seal.data_size % kPageSize != 0 || seal.trailer_size != trailer_size_for(seal.data_size) ||
      __builtin_add_overflow(seal.data_offset, seal.data_size, &total) ||
      __builtin_add_overflow(total, seal.trailer_size, &total) || total != seal.total_size) {
    refuse(fmt::format("the image has sizes that don't fit in its seal at byte {}", at));
  }
}

void read_notes(Elf* elf, size_t count, std::span<const std::byte> metadata, NoteReader& reader) {
  GElf_Phdr segment;
  if (gelf_getphdr(elf, 0, &segment) == nullptr || segment.p_type != PT_NOTE) {
    refuse(fmt::format("the first segment is no PT_NOTE (byte {})", kPrefixSize));
  }
  const size_t start = kPrefixSize + count * sizeof(Elf64_Phdr);
  const size_t end = metadata.size() - sizeof(Seal);
  if (segment.p_offset != start || segment.p_filesz > end - start) {
    refuse(fmt::format("the notes are out of place (p_offset at byte {})", kPrefixSize + 8));
  }
  Elf_Data* data =
      elf_getdata_rawchunk(elf, static_cast<int64_t>(start), segment.p_filesz, ELF_T_NHDR);
  if (data == nullptr) refuse(fmt::format("the notes at byte {} can't be read", start));
  size_t position = 0;
  while (position < data->d_size) {
    GElf_Nhdr note;
    size_t name_at, descriptor_at;
    const size_t next = gelf_getnote(data, position, &note, &name_at, &descriptor_at);
    if (next == 0) refuse(fmt::format("the note at byte {} doesn't fit", start + position));
    const auto bytes = std::span(static_cast<const std::byte*>(data->d_buf), data->d_size);
    const auto owner = bytes.subspan(name_at, note.n_namesz == 0 ? 0 : note.n_namesz - 1);
    try {
      reader.take({reinterpret_cast<const char*>(owner.data()), owner.size()}, note.n_type,
                  bytes.subspan(descriptor_at, note.n_descsz), start + descriptor_at);
    } catch (const FieldError& error) {
      refuse(fmt::format("the note at byte {} can't be read: {}", start + position, error.what()));
    }
    position = next;
  }
  try {
    reader.finish();
  } catch (const FieldError& error) {
    refuse(fmt::format("the notes at byte {} are not complete: {}", start, error.what()));
  }
}

}  // namespace

void refuse_cut(uint64_t at_byte, uint64_t of_bytes) {
  refuse(fmt::format("the image is cut at byte {} of {}{}", at_byte,
                     of_bytes <= kPrefixSize ? "at least " : "", of_bytes));
}

uint64_t metadata_size(std::span<const std::byte> prefix) {
  check_kind(prefix);
  if (load<uint64_t>(prefix, kPrefixDigestOffset) !=
      short_digest_of(prefix.first(kPrefixDigestOffset))) {
    refuse(
        fmt::format("the image is altered in its header, bytes 0 to {}: their digest doesn't "
                    "match",
                    kPrefixSize));
  }
  if (load<Elf64_Ehdr>(prefix, 0).e_machine != EM_X86_64) {
    refuse("the image is of another architecture than x86-64 (e_machine at byte 18)",
           "restore it on a host like the one it comes from");
  }
  const auto section = load<Elf64_Shdr>(prefix, sizeof(Elf64_Ehdr));
  const uint64_t size = section.sh_addr;
  if (size < kPageSize || size % kPageSize != 0 || size > kMaxMetadata) {
    refuse(fmt::format("the image says that its notes end at byte {} (sh_addr at byte 80)", size));
  }
  return size;
}

Metadata decode_metadata(std::span<const std::byte> bytes) {
  const uint64_t size = metadata_size(bytes.first(std::min(bytes.size(), kPrefixSize)));
  if (bytes.size() < size) refuse_cut(bytes.size(), size);
  const auto metadata = bytes.first(size);
  const Seal seal = open_seal(metadata);
  check_sizes(seal, size - sizeof seal);

  elf_version(EV_CURRENT);
  // libelf doesn't write to memory that it is given, it only lacks the const.
  auto* start = const_cast<char*>(reinterpret_cast<const char*>(metadata.data()));
  const UniqueElf elf(elf_memory(start, metadata.size()));
  if (!elf) refuse(fmt::format("the image has a wrong ELF header: {}", elf_errmsg(-1)));

  Metadata result;
  result.data_offset = seal.data_offset;
  result.data_size = seal.data_size;
  result.trailer_size = seal.trailer_size;
  result.total_size = seal.total_size;
  const size_t count = count_segments(elf.get(), metadata);
  result.runs = read_runs(elf.get(), count, seal);
  NoteReader reader(result.snapshot);
  read_notes(elf.get(), count, metadata, reader);
  try {
    validate(result.snapshot);
    validate_runs(result.snapshot, result.runs);
  } catch (const Invalid& error) {
    refuse(fmt::format("the image's note '{}' at byte {}: {}", name_of(error.note()),
                       reader.first_offset(error.note()), error.what()));
  } catch (const std::runtime_error& error) {
    refuse(fmt::format("the image's program headers at byte {}: {}", kPrefixSize, error.what()));
  }
  return result;
}

}  // namespace rfork::image
