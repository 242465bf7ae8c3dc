// The notes of an image: those of any core file, and those of owner RFORK for the rest.
//
// The descriptor of an RFORK note is a NoteHead and CBOR. Lists are written as tables, {"columns":
// [names], "rows":
// [[values]]}, of at most kRowsPerNote rows; the notes of a list follow one another and are joined.
// So both sides hold the JSON values of one note at a time, however many mappings or threads there
// are.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "image/elf_layout.h"
#include "image/model.h"

namespace rfork::image {

inline constexpr std::string_view kOwner = "RFORK";
inline constexpr size_t kRowsPerNote = 512;

/// Types of RFORK notes. They start high because gdb takes a small type for the kernel's, whoever
/// owns the note.
enum class NoteType : uint32_t {
  host = 0x52460001,
  snapshot = 0x52460002,
  files = 0x52460003,
  objects = 0x52460004,
  descriptions = 0x52460005,
  process = 0x52460006,  ///< all of a process but its lists; they follow it
  threads = 0x52460007,
  mappings = 0x52460008,
  descriptors = 0x52460009,
};

/// "host", "snapshot", ...; nullptr for a type that this program doesn't know.
const char* name_of(NoteType type);

/// The start of every RFORK note's descriptor.
struct NoteHead {
  uint16_t version = 1;
  uint16_t flags = 0;
  uint32_t process = 0;  ///< number of the process that the note is about
};
static_assert(sizeof(NoteHead) == 8);
inline constexpr uint16_t kNoteVersion = 1;  ///< of every type so far
inline constexpr uint16_t kMustUnderstand =
    1u;  ///< a reader that doesn't know the type refuses the image

/// Appends notes to a buffer, each padded to 4 bytes.
class NoteWriter {
 public:
  explicit NoteWriter(Bytes& out) : out_(out) {}
  void add(std::string_view owner, uint32_t type, std::span<const std::byte> descriptor);
  void add(NoteType type, uint32_t process, std::span<const std::byte> cbor);

 private:
  void begin(std::string_view owner, uint32_t type, size_t descriptor_size);
  void append(std::span<const std::byte> bytes);
  void pad();

  Bytes& out_;
};

/// Appends all notes of `snapshot` to `out`.
void write_notes(const Snapshot& snapshot, Bytes& out);

/// The notes that debuggers read, of the first process, in the kernel's order
/// (core_notes_x86_64.cc).
void write_core_notes(const Snapshot& snapshot, NoteWriter& writer);

/// Reads notes one by one into a snapshot.
class NoteReader {
 public:
  explicit NoteReader(Snapshot& snapshot) : snapshot_(snapshot) {}

  /// Throws FieldError, or Refusal for a note that must be understood and isn't. `offset` is the
  /// descriptor's in the image.
  void take(std::string_view owner, uint32_t type, std::span<const std::byte> descriptor,
            uint64_t offset);
  /// After the last note: throws FieldError when one is missing.
  void finish();
  /// Offset in the image of the first note of a type; 0 when there was none.
  uint64_t first_offset(NoteType type) const;

 private:
  /// Registers of the first process's threads, from the standard notes, in order.
  struct CoreThread {
    int32_t tid = 0;
    std::span<const std::byte> registers, floating_point, xstate;
  };

  void take_core(uint32_t type, std::span<const std::byte> descriptor);
  void take_ours(NoteType type, const NoteHead& head, std::span<const std::byte> cbor);
  Process& process(uint32_t index);

  Snapshot& snapshot_;
  std::vector<CoreThread> core_threads_;
  std::vector<std::pair<NoteType, uint64_t>> first_offsets_;
};

// Standard notes that the reader takes something from (core_notes_x86_64.cc).

/// The tid and the registers in an NT_PRSTATUS descriptor. Throws FieldError when it has another
/// size.
std::pair<int32_t, std::span<const std::byte>> read_prstatus(std::span<const std::byte> descriptor);

}  // namespace rfork::image
