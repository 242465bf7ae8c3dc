// The loader in front of an image: made of a program, recognised, and refused when it was altered.
#include <elf.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "base/io.h"
#include "image/elf_layout.h"
#include "image/front.h"
#include "image/read_image.h"
#include "image_samples.h"

using namespace rfork;
using namespace rfork::image;
using Catch::Matchers::Contains;

namespace {

constexpr size_t kLoaded = 6000;

/// A program of two loaded segments, and bytes behind them that nothing loads.
Bytes program() {
  Bytes bytes = samples::noise(10'000, 3);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64, header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_DYN, header.e_machine = EM_X86_64;
  header.e_phoff = sizeof header, header.e_phentsize = sizeof(Elf64_Phdr), header.e_phnum = 2;
  header.e_shoff = 9000, header.e_shnum = 3, header.e_shstrndx = 2;
  Elf64_Phdr segments[2]{};
  segments[0].p_type = segments[1].p_type = PT_LOAD;
  segments[0].p_filesz = 1000;
  segments[1].p_offset = 4096, segments[1].p_filesz = kLoaded - 4096;
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, segments, sizeof segments);
  return bytes;
}

template <typename T>
void put(Bytes& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

Bytes joined(Bytes front, const Bytes& image) {
  front.insert(front.end(), image.begin(), image.end());
  return front;
}

UniqueFd file_of(const Bytes& bytes) {
  UniqueFd fd = make_memfd("image");
  write_full(fd.get(), bytes, "memfd");
  REQUIRE(::lseek(fd.get(), 0, SEEK_SET) == 0);
  return fd;
}

}  // namespace

TEST_CASE("a front is what is loaded of a program, marked") {
  const Bytes whole = program();
  CHECK_FALSE(is_front(whole));
  const Bytes front = make_front(whole);
  CHECK(is_front(front));
  CHECK(front.size() == 8192);
  CHECK(front_size(front) == front.size());
  CHECK_NOTHROW(check_front(front));
  CHECK(std::memcmp(front.data() + sizeof(Elf64_Ehdr), whole.data() + sizeof(Elf64_Ehdr),
                    kLoaded - sizeof(Elf64_Ehdr)) == 0);
  Elf64_Ehdr header;
  std::memcpy(&header, front.data(), sizeof header);
  CHECK((header.e_shoff == 0 && header.e_shnum == 0 && header.e_shstrndx == 0));
  CHECK(make_front(front) == front);
}

TEST_CASE("nothing but a program of this machine becomes a front") {
  const Bytes whole = program();
  for (const auto& [at, value] :
       {std::pair<size_t, int>{0, 0}, {EI_CLASS, 1}, {16, ET_CORE}, {18, EM_386}}) {
    Bytes bad = whole;
    put(bad, at, static_cast<uint8_t>(value));
    CHECK_THROWS_AS(make_front(bad), Refusal);
  }
  Bytes bad = whole;
  SECTION("no bytes") {
    bad.clear();
  }
  SECTION("cut in what is loaded") {
    bad.resize(kLoaded - 1);
  }
  SECTION("program headers out of the file") {
    put(bad, offsetof(Elf64_Ehdr, e_phoff), UINT64_MAX);
  }
  SECTION("a segment that wraps around") {
    put(bad, sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_filesz), UINT64_MAX);
  }
  SECTION("nothing is loaded") {
    put(bad, offsetof(Elf64_Ehdr, e_phnum), uint16_t{0});
  }
  CHECK_THROWS_AS(make_front(bad), Refusal);
}

TEST_CASE("an altered front is refused") {
  const Bytes front = make_front(program());
  for (size_t at = 0; at < front.size(); at += at < 128 ? 1 : 97) {
    Bytes bad = front;
    bad[at] ^= std::byte{4};
    if (!is_front(bad)) continue;
    CHECK_THROWS_AS(check_front(bad), Refusal);
  }
  Bytes later = front;
  put(later, kVersionOffset, uint16_t{2});
  CHECK_THROWS_WITH(front_size(later), Contains("version 2"));
  Bytes none = front;
  put(none, offsetof(Elf64_Ehdr, e_flags), 0u);
  CHECK_THROWS_WITH(front_size(none), Contains("byte 48"));
  put(none, offsetof(Elf64_Ehdr, e_flags), UINT32_MAX);
  CHECK_THROWS_WITH(front_size(none), Contains("byte 48"));
  CHECK_THROWS_WITH(check_front(std::span(front).first(5000)), Contains("cut at byte 5000"));
}

TEST_CASE("needs_shared_libraries sees an interpreter") {
  Bytes bytes = program();
  CHECK_FALSE(needs_shared_libraries(bytes));
  put(bytes, sizeof(Elf64_Ehdr), uint32_t{PT_INTERP});
  CHECK(needs_shared_libraries(bytes));
}

TEST_CASE("ImageReader gives every byte of the image, with and without a front") {
  const Bytes image = samples::image_of(samples::rich_snapshot(), samples::rich_runs());
  for (const Bytes& front : {Bytes{}, make_front(program())}) {
    Bytes copied;
    const UniqueFd file = file_of(joined(front, image));
    ImageReader reader(file.get(), "job", [&](std::span<const std::byte> bytes) {
      copied.insert(copied.end(), bytes.begin(), bytes.end());
    });
    reader.finish();
    CHECK(copied == image);
    CHECK(reader.front_size() == front.size());
    CHECK(reader.metadata().total_size == image.size());
  }
}

TEST_CASE("ImageReader refuses a front that is cut, and one without an image") {
  const Bytes front = make_front(program());
  const Bytes cut(front.begin(), front.begin() + 5000);
  CHECK_THROWS_WITH(ImageReader(file_of(cut).get(), "job"),
                    Contains("job: the file is cut at byte 5000"));
  CHECK_THROWS_WITH(ImageReader(file_of(front).get(), "job"), Contains("empty"));
}
