// Images that are cut, altered, or something else altogether: always refused, always saying where.
#include <catch2/catch.hpp>
#include <cstring>

#include "image/elf_layout.h"
#include "image/notes.h"
#include "image_samples.h"

using namespace rfork;
using namespace rfork::image;
using Catch::Matchers::Contains;

namespace {

Bytes small_image() {
  return samples::image_of(samples::small_snapshot(), samples::small_runs());
}

template <typename T>
void store(Bytes& image, size_t offset, const T& value) {
  std::memcpy(image.data() + offset, &value, sizeof value);
}

/// Offset of the type field of the first note of ours with that type.
size_t find_note(const Bytes& image, NoteType type) {
  Elf64_Phdr notes;
  std::memcpy(&notes, image.data() + kPrefixSize, sizeof notes);
  size_t at = notes.p_offset;
  while (at < notes.p_offset + notes.p_filesz) {
    Elf64_Nhdr note;
    std::memcpy(&note, image.data() + at, sizeof note);
    if (note.n_type == static_cast<uint32_t>(type)) return at + offsetof(Elf64_Nhdr, n_type);
    at += sizeof note + ((note.n_namesz + 3) & ~3u) + ((note.n_descsz + 3) & ~3u);
  }
  throw std::logic_error("no such note");
}

// From the type of a note of ours to the version and the flags in its NoteHead, behind "RFORK"
// padded to 8.
constexpr size_t kToVersion = 4 + 8;
constexpr size_t kToFlags = kToVersion + 2;

}  // namespace

TEST_CASE("an image cut at any byte is refused") {
  const Bytes image = small_image();
  for (size_t size = 0; size < image.size(); ++size) {
    const std::string line = samples::refusal_of(std::span(image).first(size));
    if (size == 0) {
      CHECK_THAT(line, Contains("is empty"));
    } else if (line.find("cut at byte " + std::to_string(size) + " of") == std::string::npos) {
      FAIL("cut at " << size << ": " << line);
    }
  }
}

TEST_CASE("an image with any byte altered is refused") {
  Bytes image = small_image();
  for (size_t i = 0; i < image.size(); ++i) {
    image[i] ^= std::byte{0x10};
    const std::string line = samples::refusal_of(image);
    if (line.find("byte") == std::string::npos) FAIL("altered at " << i << ": " << line);
    image[i] ^= std::byte{0x10};
  }
  CHECK_NOTHROW(samples::read_back(image));
}

TEST_CASE("altered page data is found with the offset of its block") {
  Snapshot snapshot = samples::small_snapshot();
  const uint64_t size = 2 * BlockDigests::kBlockSize + kPageSize;
  snapshot.processes[0].mappings[0].range.end = 0x10000 + size;
  Bytes image =
      samples::image_of(snapshot, {{DataRun::Target::memory, 0, {0x10000, 0x10000 + size}}});
  const uint64_t data = metadata_size(std::span(image).first(kPrefixSize));
  image[data + BlockDigests::kBlockSize + 12345] ^= std::byte{1};
  CHECK_THAT(samples::refusal_of(image),
             Contains("from byte " + std::to_string(data + BlockDigests::kBlockSize)));
}

TEST_CASE("what is no image is named") {
  const auto refusal = [](Bytes bytes) { return samples::refusal_of(bytes); };
  CHECK_THAT(refusal({}), Contains("empty"));
  CHECK_THAT(refusal(samples::noise(4096, 1)), Contains("no rfork image"));
  Bytes image = small_image();
  Bytes other = image;
  store(other, offsetof(Elf64_Ehdr, e_type), uint16_t{ET_DYN});
  CHECK_THAT(refusal(other), Contains("ELF program"));
  other = image;
  store(other, EI_PAD, std::array<char, 7>{});
  CHECK_THAT(refusal(other), Contains("ordinary core file"));
  other = image;
  other[EI_CLASS] = std::byte{ELFCLASS32};
  CHECK_THAT(refusal(other), Contains("32-bit"));
  other = image;
  other[EI_DATA] = std::byte{ELFDATA2MSB};
  CHECK_THAT(refusal(other), Contains("big-endian"));
  other = image;
  store(other, offsetof(Elf64_Ehdr, e_machine), uint16_t{EM_AARCH64});
  samples::reseal(other);
  CHECK_THAT(refusal(other), Contains("architecture"));
}

TEST_CASE("a later format version is refused as such") {
  Bytes image = small_image();
  store(image, kVersionOffset, uint16_t{kFormatVersion + 1});
  CHECK_THAT(samples::refusal_of(image), Contains("format version 2"));
}

TEST_CASE("a later version of a note is refused by the note's name") {
  Bytes image = small_image();
  store(image, find_note(image, NoteType::mappings) + kToVersion, uint16_t{kNoteVersion + 1});
  samples::reseal(image);
  CHECK_THAT(samples::refusal_of(image), Contains("'mappings'") && Contains("version 2"));
}

TEST_CASE("an unknown note is refused if it must be understood, else skipped") {
  Bytes image = samples::image_of(samples::rich_snapshot(), samples::rich_runs());
  const size_t at = find_note(image, NoteType::descriptors);
  store(image, at, uint32_t{0x5246beef});
  samples::reseal(image);
  CHECK_THAT(samples::refusal_of(image), Contains("0x5246beef"));
  store(image, at + (kToFlags), uint16_t{0});
  samples::reseal(image);
  CHECK(samples::read_back(image).snapshot.processes[0].descriptors.empty());
}

TEST_CASE("sizes and places that lie are refused") {
  const Bytes image = small_image();
  const auto with = [&](size_t offset, uint64_t value) {
    Bytes other = image;
    store(other, offset, value);
    samples::reseal(other);
    return samples::refusal_of(other);
  };
  const size_t size = metadata_size(std::span(image).first(kPrefixSize));
  constexpr size_t kNotes = kPrefixSize;
  constexpr size_t kLoad = kPrefixSize + sizeof(Elf64_Phdr);
  const size_t seal = size - sizeof(Seal);
  CHECK_THAT(with(offsetof(Elf64_Ehdr, e_phoff), 64), Contains("ELF header"));
  CHECK_THAT(with(kNotes + offsetof(Elf64_Phdr, p_filesz), ~0ull), Contains("notes"));
  CHECK_THAT(with(kNotes + offsetof(Elf64_Phdr, p_filesz), 16), Contains("note"));
  CHECK_THAT(with(kNotes + offsetof(Elf64_Phdr, p_offset), 0), Contains("notes"));
  CHECK_THAT(with(kLoad + offsetof(Elf64_Phdr, p_offset), size + 4096), Contains("page data"));
  CHECK_THAT(with(kLoad + offsetof(Elf64_Phdr, p_filesz), ~0ull), Contains("p_vaddr"));
  CHECK_THAT(with(kLoad + offsetof(Elf64_Phdr, p_filesz), ~0ull << 17), Contains("page data"));
  CHECK_THAT(with(kLoad + offsetof(Elf64_Phdr, p_vaddr), 0x20000), Contains("within a mapping"));
  CHECK_THAT(with(kLoad + offsetof(Elf64_Phdr, p_paddr), 1), Contains("p_vaddr"));
  CHECK_THAT(with(seal + offsetof(Seal, data_size), ~0ull << 12), Contains("sizes"));
  CHECK_THAT(with(seal + offsetof(Seal, data_size), 8192), Contains("sizes"));
  CHECK_THAT(with(seal + offsetof(Seal, total_size), 0), Contains("sizes"));
}

TEST_CASE("header that promises more than there is") {
  Bytes image = small_image();
  const size_t at = sizeof(Elf64_Ehdr) + offsetof(Elf64_Shdr, sh_addr);
  for (const uint64_t size :
       std::array<uint64_t, 4>{0, 4097, kMaxMetadata + kPageSize, ~0ull << 12}) {
    store(image, at, size);
    const uint64_t digest = short_digest_of(std::span(image).first(kPrefixDigestOffset));
    store(image, kPrefixDigestOffset, digest);
    CHECK_THAT(samples::refusal_of(image), Contains("sh_addr"));
  }
}
