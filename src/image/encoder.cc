// Writes an image: see elf_layout.h for where things stand and notes.h for what the notes are.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "image/elf_layout.h"
#include "image/format.h"
#include "image/notes.h"
#include "image/validate.h"

namespace rfork::image {

namespace {

template <typename T>
void store(Bytes& out, size_t offset, const T& value) {
  std::memcpy(out.data() + offset, &value, sizeof value);
}

template <typename T>
void append(Bytes& out, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void check(const Snapshot& snapshot, std::span<const DataRun> runs) {
  try {
    validate(snapshot);
    validate_runs(snapshot, runs);
  } catch (const std::runtime_error& error) {
    throw std::invalid_argument(error.what());
  }
}

/// Room for everything, so that the buffer never moves: pages that stay untouched cost nothing.
size_t likely_size(const Snapshot& snapshot, size_t segments) {
  size_t size = 65536 + segments * sizeof(Elf64_Phdr);
  for (const Process& process : snapshot.processes) {
    for (const Mapping& mapping : process.mappings) size += 128 + 2 * mapping.name.size();
    for (const Thread& thread : process.threads) size += 2048 + thread.xstate.size();
    size += 16 * process.descriptors.size();
  }
  return size + 512 * (snapshot.files.size() + snapshot.objects.size());
}

/// ELF header and the bytes of section header 0. As in the kernel's core files, the ELF header
/// names it only when it must tell the number of segments (elf(5), PN_XNUM): where there is a
/// section header, eu-readelf looks for notes in sections alone.
void store_prefix(Bytes& out, size_t segments) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  std::memcpy(header.e_ident + kMarkOffset, kMark, sizeof kMark);
  std::memcpy(header.e_ident + kVersionOffset, &kFormatVersion, sizeof kFormatVersion);
  header.e_type = ET_CORE;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_phoff = kPrefixSize;
  header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<uint16_t>(std::min<size_t>(segments, PN_XNUM));
  Elf64_Shdr section{};
  section.sh_addr = out.size() + sizeof(Seal);
  if (segments >= PN_XNUM) {
    header.e_shoff = sizeof header;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = 1;
    section.sh_info = static_cast<uint32_t>(segments);
  }
  store(out, 0, header);
  store(out, sizeof header, section);
  store(out, kPrefixDigestOffset, short_digest_of(std::span(out).first(kPrefixDigestOffset)));
}

Elf64_Phdr note_segment(size_t offset, size_t size) {
  Elf64_Phdr header{};
  header.p_type = PT_NOTE;
  header.p_offset = offset;
  header.p_filesz = size;
  header.p_align = 4;
  return header;
}

}  // namespace

struct Encoder::State {
  Bytes metadata;
  Seal seal{};
  BlockDigests blocks;
};

Encoder::Encoder(const Snapshot& snapshot, std::span<const DataRun> runs)
    : state_(std::make_unique<State>()) {
  check(snapshot, runs);
  const SegmentPlan plan(snapshot, runs);
  const size_t segments = plan.count() + 1;
  Bytes& out = state_->metadata;
  out.reserve(likely_size(snapshot, segments));

  const size_t notes_offset = kPrefixSize + segments * sizeof(Elf64_Phdr);
  out.resize(notes_offset);
  write_notes(snapshot, out);
  store(out, kPrefixSize, note_segment(notes_offset, out.size() - notes_offset));
  const size_t size = (out.size() + sizeof(Seal) + kPageSize - 1) & ~(kPageSize - 1);
  out.resize(size - sizeof(Seal));
  if (size > kMaxMetadata) {
    throw Refusal(Failure::cannot_carry,
                  "the process has too much queued, or too many mappings, for an image");
  }
  size_t position = kPrefixSize + sizeof(Elf64_Phdr);
  plan.for_each(size, [&](const Elf64_Phdr& header) {
    store(out, position, header);
    position += sizeof header;
  });
  store_prefix(out, segments);

  // The seal comes last: its digest covers all before it, padding included.
  Seal& seal = state_->seal;
  std::memcpy(seal.magic, kSealMagic, sizeof seal.magic);
  seal.version = kFormatVersion;
  seal.block_size = BlockDigests::kBlockSize;
  seal.data_offset = size;
  seal.data_size = plan.data_size();
  seal.trailer_size = trailer_size_for(seal.data_size);
  seal.total_size = seal.data_offset + seal.data_size + seal.trailer_size;
  append(out, seal);
  seal.digest = digest_of(std::span(out).first(size - sizeof seal.digest));
  store(out, size - sizeof seal.digest, seal.digest);
}

Encoder::~Encoder() = default;

std::span<const std::byte> Encoder::metadata() const {
  return state_->metadata;
}
uint64_t Encoder::data_size() const {
  return state_->seal.data_size;
}
uint64_t Encoder::total_size() const {
  return state_->seal.total_size;
}
void Encoder::absorb(std::span<const std::byte> data) {
  state_->blocks.absorb(data);
}

Bytes Encoder::trailer() {
  if (state_->blocks.absorbed() != data_size()) {
    throw std::logic_error("page data of another size than announced");
  }
  const std::vector<uint64_t>& digests = state_->blocks.finish();
  TrailerHead head{};
  std::memcpy(head.magic, kTrailerMagic, sizeof head.magic);
  head.version = kFormatVersion;
  head.block_size = BlockDigests::kBlockSize;
  head.count = digests.size();
  Bytes out;
  append(out, head);
  for (const uint64_t digest : digests) append(out, digest);
  append(out, total_size());
  append(out, digest_of(out));
  return out;
}

}  // namespace rfork::image
