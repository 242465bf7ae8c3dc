#include "image/front.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "image/elf_layout.h"
#include "image/format.h"

namespace rfork::image {

namespace {

constexpr uint16_t kFrontVersion = 1;

/// The last bytes of a front.
struct FrontSeal {
  char magic[8];
  uint32_t version;
  uint32_t unused;
  uint64_t size;  ///< of the front, equal to what the header says
  uint64_t unused_too[3];
  Digest digest;  ///< of all bytes before this field
};
static_assert(sizeof(FrontSeal) == 64);
constexpr char kFrontMagic[8] = {'R', 'F', 'E', 'X', 'E', 'C', '\r', '\n'};

[[noreturn]] void refuse(const std::string& what) {
  throw Refusal(Failure::bad_image, what, "make or copy it again");
}

/// The header, if it is a program's that can run here.
std::optional<Elf64_Ehdr> program_header_of(std::span<const std::byte> program) {
  Elf64_Ehdr header;
  if (program.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, program.data(), sizeof header);
  const bool fits = std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
                    header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_machine == EM_X86_64 &&
                    (header.e_type == ET_EXEC || header.e_type == ET_DYN);
  return fits ? std::optional(header) : std::nullopt;
}

/// Empty when they don't lie within the program.
std::vector<Elf64_Phdr> segments_of(std::span<const std::byte> program, const Elf64_Ehdr& header) {
  const uint64_t size = header.e_phnum * sizeof(Elf64_Phdr);
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phoff > program.size() ||
      size > program.size() - header.e_phoff) {
    return {};
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (size != 0) std::memcpy(segments.data(), program.data() + header.e_phoff, size);
  return segments;
}

/// Where the last byte that is loaded ends; 0 when a segment reaches beyond the program.
uint64_t loaded_size(std::span<const std::byte> program, const Elf64_Ehdr& header) {
  uint64_t end = 0;
  for (const Elf64_Phdr& segment : segments_of(program, header)) {
    if (segment.p_type != PT_LOAD) continue;
    if (segment.p_offset > program.size() || segment.p_filesz > program.size() - segment.p_offset) {
      return 0;
    }
    end = std::max(end, segment.p_offset + segment.p_filesz);
  }
  return end;
}

}  // namespace

Bytes make_front(std::span<const std::byte> program) {
  std::optional<Elf64_Ehdr> header = program_header_of(program);
  const uint64_t loaded = header ? loaded_size(program, *header) : 0;
  const uint64_t size = (loaded + sizeof(FrontSeal) + kPageSize - 1) / kPageSize * kPageSize;
  if (loaded < sizeof(Elf64_Ehdr) || size > kMaxFront) {
    throw Refusal(Failure::internal, "the loader is no program of x86-64", "install rfork again");
  }
  header->e_shoff = 0, header->e_shnum = 0, header->e_shstrndx = 0;
  std::memcpy(header->e_ident + kMarkOffset, kMark, sizeof kMark);
  std::memcpy(header->e_ident + kVersionOffset, &kFrontVersion, sizeof kFrontVersion);
  header->e_flags = static_cast<uint32_t>(size / kPageSize);

  Bytes front(size);
  std::memcpy(front.data(), program.data(), loaded);
  std::memcpy(front.data(), &*header, sizeof *header);
  FrontSeal seal{};
  std::memcpy(seal.magic, kFrontMagic, sizeof seal.magic);
  seal.version = kFrontVersion;
  seal.size = size;
  std::byte* const at = front.data() + size - sizeof seal;
  std::memcpy(at, &seal, sizeof seal);
  seal.digest = digest_of(std::span(front).first(size - sizeof seal.digest));
  std::memcpy(at, &seal, sizeof seal);
  return front;
}

bool is_front(std::span<const std::byte> header) {
  const auto program = program_header_of(header);
  return program && std::memcmp(program->e_ident + kMarkOffset, kMark, sizeof kMark) == 0;
}

uint64_t front_size(std::span<const std::byte> header) {
  Elf64_Ehdr program;
  std::memcpy(&program, header.data(), sizeof program);
  uint16_t version;
  std::memcpy(&version, program.e_ident + kVersionOffset, sizeof version);
  if (version > kFrontVersion) {
    throw Refusal(Failure::bad_image,
                  fmt::format("the loader in front of the image has version {} (byte {}), this "
                              "program reads version {}",
                              version, kVersionOffset, kFrontVersion),
                  "use the rfork that wrote it, or a later one");
  }
  const uint64_t size = uint64_t{program.e_flags} * kPageSize;
  if (size == 0 || size > kMaxFront) {
    refuse(fmt::format(
        "the loader in front says that the image starts at byte {} (e_flags at byte 48)", size));
  }
  return size;
}

void check_front(std::span<const std::byte> front) {
  const uint64_t size = front_size(front);
  if (front.size() < size) {
    refuse(fmt::format("the file is cut at byte {}, in the loader in front of the image",
                       front.size()));
  }
  FrontSeal seal;
  std::memcpy(&seal, front.data() + size - sizeof seal, sizeof seal);
  if (digest_of(front.first(size - sizeof seal.digest)) != seal.digest) {
    refuse(fmt::format(
        "the loader in front of the image is altered, bytes 0 to {}: their digest doesn't match",
        size));
  }
  if (std::memcmp(seal.magic, kFrontMagic, sizeof seal.magic) != 0 ||
      seal.version != kFrontVersion || seal.size != size) {
    refuse(fmt::format("the loader in front of the image has a wrong seal at byte {}",
                       size - sizeof seal));
  }
}

bool needs_shared_libraries(std::span<const std::byte> program) {
  const auto header = program_header_of(program);
  if (!header) return false;
  const auto segments = segments_of(program, *header);
  return std::ranges::any_of(segments,
                             [](const Elf64_Phdr& segment) { return segment.p_type == PT_INTERP; });
}

}  // namespace rfork::image
