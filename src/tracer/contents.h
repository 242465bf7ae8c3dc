// Which bytes travel, in which order, and where each is read.
//
// The order of the stream is: what a fork does not copy (shared memory, contents of files that the
// process may write, MADV_DONTFORK and MADV_WIPEONFORK ranges), which must be read while the
// process stands still; then files that it only reads and clean pages of mapped files; then private
// memory, which a forked copy keeps as it was.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "image/model.h"
#include "tracer/inventory.h"
#include "tracer/process_memory.h"
#include "tracer/resident_pages.h"

namespace rfork::tracer {

/// A run and the place its bytes are read from: a descriptor at the run's offset, or memory at
/// `address`.
struct Piece {
  image::DataRun run;
  const ProcessMemory* memory = nullptr;
  uint64_t address = 0;
  int fd = -1;         ///< borrowed from the inventory's object_sources
  bool shown = false;  ///< what a mapping shows of an object, if anything
};

struct Contents {
  std::vector<Piece> pieces;
  std::vector<Range> guards;  ///< guard regions that were met on the way
};

struct ContentsOptions {
  bool thin = false;
  std::set<std::string> present;  ///< paths of files whose contents the destination has
};

/// Adds the Objects that stand for contents of named files: whole files that are open, pages of
/// files that are only mapped. Opens them, as process `pid` sees them. Throws Refusal(cannot_carry)
/// when one can't be read.
void add_file_objects(Inventory& inventory, pid_t pid, const ContentsOptions& options);

/// Adds the directories on the way to what is open, and to `cwd`, as Files: where they must be made
/// they get the same modes.
void add_directories(Inventory& inventory, pid_t pid, const std::string& cwd);

/// Adds what must be read from `original` while it stands still. `resident` is of it.
void add_what_no_fork_copies(Contents& contents, const Inventory& inventory,
                             const ProcessMemory& original, const ResidentPages& resident,
                             const std::vector<Range>& not_forked);
/// Adds the rest. `memory` is the forked copy's, or the original's while it stands still.
void add_snapshot(Contents& contents, const Inventory& inventory, const ProcessMemory& memory,
                  const std::vector<Range>& not_forked);

/// Reads `buffer.size()` bytes of the piece from `offset` on; bytes beyond the run's end up to the
/// page's are zero. Throws Error when the contents can't be read.
void read_piece(const Piece& piece, uint64_t offset, std::span<std::byte> buffer);

}  // namespace rfork::tracer
