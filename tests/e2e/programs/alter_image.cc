// Makes of an image one of another host, or of a later rfork: alter_image IN OUT CHANGE...
//
//   feature NAME     the origin had this instruction-set extension
//   hint NAME        the same of a flag that only tells of speed
//   component INDEX  the origin kept this XSAVE component, in its initial state in all threads
//   live INDEX       the same, and the first thread uses it
//   pages SIZE       the origin had pages of that many bytes
//   machine NAME     the origin was of that architecture
//   boot ID          the origin's kernel was started another time
//   huge SIZE        the process has a mapping of huge pages of that many bytes
//   version N        the image has this format version
//   must TYPE        there is one more note, which must be understood
//   may TYPE         there is one more note, which need not be
//   rename A B       bytes of the notes: a field that has another name in a later version
//
// What comes out is an image that is whole: its digests are right.
#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/io.h"
#include "image/digest.h"
#include "image/elf_layout.h"
#include "image/notes.h"
#include "image/read_image.h"

namespace {

using namespace rfork;
using namespace rfork::image;

constexpr size_t kStateBits = 512;  // XSTATE_BV in the XSAVE area
constexpr uint32_t kComponentSize = 128;

/// What is changed in the bytes, after all else.
struct ByteChanges {
  uint16_t version = 0;
  uint32_t note_type = 0;
  bool must = false;
  std::string from, to;
};

void add_component(Snapshot& snapshot, unsigned index, bool live) {
  uint32_t end = 0;
  for (const XstateComponent& component : snapshot.host.xstate)
    end = std::max(end, component.offset + component.size);
  const uint32_t offset = (end + 63) & ~63u;
  snapshot.host.xstate.push_back({index, offset, kComponentSize});
  snapshot.host.xcr0 |= uint64_t{1} << index;
  for (Thread& thread : snapshot.processes.at(0).threads) {
    thread.xstate.resize(offset + kComponentSize);
    // ptrace keeps XCR0 where the kernel's software bytes are (bytes 464 to 471).
    std::memcpy(thread.xstate.data() + 464, &snapshot.host.xcr0, sizeof snapshot.host.xcr0);
    if (!live || &thread != &snapshot.processes[0].threads[0]) continue;
    uint64_t in_use;
    std::memcpy(&in_use, thread.xstate.data() + kStateBits, sizeof in_use);
    in_use |= uint64_t{1} << index;
    std::memcpy(thread.xstate.data() + kStateBits, &in_use, sizeof in_use);
    std::fill_n(thread.xstate.begin() + offset, kComponentSize, std::byte{0x5a});
  }
}

void add_huge_mapping(Snapshot& snapshot, uint64_t size) {
  Mapping mapping;
  mapping.kind = Mapping::Kind::anonymous;
  mapping.huge_page_size = size;
  mapping.range = {size, 2 * size};
  auto& mappings = snapshot.processes.at(0).mappings;
  mappings.insert(mappings.begin(), mapping);
}

/// Whether `word` was a change of what the image says.
bool change(Snapshot& snapshot, const std::string& word, const std::string& value) {
  if (word == "feature") {
    snapshot.host.cpu_features.push_back(value);
  } else if (word == "hint") {
    snapshot.host.cpu_hints.push_back(value);
  } else if (word == "component" || word == "live") {
    add_component(snapshot, static_cast<unsigned>(std::stoul(value)), word == "live");
  } else if (word == "pages") {
    snapshot.host.page_size = std::stoull(value);
  } else if (word == "machine") {
    snapshot.host.architecture = value;
  } else if (word == "boot") {
    snapshot.host.boot_id = value;
  } else if (word == "huge") {
    add_huge_mapping(snapshot, std::stoull(value));
  } else {
    return false;
  }
  return true;
}

template <typename T>
void store(Bytes& bytes, size_t at, const T& value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

void reseal(Bytes& metadata) {
  store(metadata, kPrefixDigestOffset,
        short_digest_of(std::span(metadata).first(kPrefixDigestOffset)));
  store(metadata, metadata.size() - sizeof(Digest),
        digest_of(std::span(metadata).first(metadata.size() - sizeof(Digest))));
}

/// Behind the last note, where a page has room for it.
bool add_note(Bytes& metadata, uint32_t type, bool must) {
  struct {
    Elf64_Nhdr note{6, sizeof(NoteHead) + 1, 0};
    char owner[8] = "RFORK";
    NoteHead head;
    uint8_t cbor[4] = {0xa0};  // {}
  } added;
  added.note.n_type = type;
  added.head.flags = must ? kMustUnderstand : 0;
  Elf64_Phdr notes;
  std::memcpy(&notes, metadata.data() + kPrefixSize, sizeof notes);
  const size_t end = notes.p_offset + notes.p_filesz;
  if (end + sizeof added > metadata.size() - sizeof(Seal)) return false;
  store(metadata, end, added);
  notes.p_filesz += sizeof added;
  store(metadata, kPrefixSize, notes);
  return true;
}

void rename_field(Bytes& metadata, const std::string& from, const std::string& to) {
  const auto old = as_bytes(from);
  if (from.size() != to.size()) throw std::invalid_argument("names of different lengths");
  const auto at = std::ranges::search(metadata, old).begin();
  if (at == metadata.end()) throw std::invalid_argument("no " + from + " in the notes");
  std::ranges::copy(as_bytes(to), at);
}

/// The metadata with the changes in its bytes; `snapshot` may become longer.
Bytes metadata_with(Snapshot& snapshot, const std::vector<DataRun>& runs,
                    const ByteChanges& changes) {
  for (;;) {
    const Encoder encoder(snapshot, runs);
    Bytes metadata(encoder.metadata().begin(), encoder.metadata().end());
    if (changes.note_type != 0 && !add_note(metadata, changes.note_type, changes.must)) {
      snapshot.host.kernel += std::string(64, ' ');
      continue;
    }
    if (changes.version != 0) store(metadata, kVersionOffset, changes.version);
    if (!changes.from.empty()) rename_field(metadata, changes.from, changes.to);
    reseal(metadata);
    return metadata;
  }
}

void alter(char** words) {
  const UniqueFd in = open_or_throw(words[0], O_RDONLY);
  const UniqueFd out = open_or_throw(words[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
  ImageReader reader(in.get(), words[0]);
  Snapshot snapshot = reader.metadata().snapshot;
  ByteChanges changes;
  for (words += 2; *words != nullptr; words += 2) {
    const std::string word = words[0], value = words[1] == nullptr ? "" : words[1];
    if (value.empty()) throw std::invalid_argument(word + " has no value");
    if (change(snapshot, word, value)) continue;
    if (word == "version") {
      changes.version = static_cast<uint16_t>(std::stoul(value));
    } else if (word == "must" || word == "may") {
      changes.note_type = static_cast<uint32_t>(std::stoul(value, nullptr, 0));
      changes.must = word == "must";
    } else if (word == "rename" && words[2] != nullptr) {
      changes.from = value, changes.to = words[2];
      ++words;
    } else {
      throw std::invalid_argument("no change is called " + word);
    }
  }
  const std::vector<DataRun>& runs = reader.metadata().runs;
  const Bytes metadata = metadata_with(snapshot, runs, changes);
  Encoder encoder(snapshot, runs);
  write_full(out.get(), metadata, "the image");
  Bytes buffer(1u << 20);
  while (const size_t size = reader.read(buffer)) {
    encoder.absorb(std::span(buffer).first(size));
    write_full(out.get(), std::span(buffer).first(size), "the image");
  }
  write_full(out.get(), encoder.trailer(), "the image");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  try {
    alter(argv + 1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "alter_image: %s\n", error.what());
    return 1;
  }
}
