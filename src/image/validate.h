// What a snapshot must be like before anybody acts on it. The loader maps, opens and writes what an
// image says, so the decoder lets nothing through that doesn't hang together; the encoder asks the
// same of what it is given.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "image/model.h"
#include "image/notes.h"

namespace rfork::image {

/// What doesn't hang together, and in which note it stands.
class Invalid : public std::runtime_error {
 public:
  Invalid(NoteType note, const std::string& what) : std::runtime_error(what), note_(note) {}
  NoteType note() const { return note_; }

 private:
  NoteType note_;
};

/// Throws Invalid. Checks that ids are unique and references resolve; that mappings are sorted,
/// page-aligned, disjoint and in user space; that register blobs have their sizes; that numbers are
/// such as the kernel takes.
void validate(const Snapshot& snapshot);

/// Throws std::runtime_error unless each run is page-aligned, not empty, within one mapping of its
/// process or within its object, and disjoint from the others. `snapshot` must be valid.
void validate_runs(const Snapshot& snapshot, std::span<const DataRun> runs);

/// The ids that exist, for finding out whether one does.
struct KnownIds {
  std::vector<uint32_t> files, objects, descriptions;  ///< sorted

  static bool has(const std::vector<uint32_t>& ids, uint32_t id) {
    return std::ranges::binary_search(ids, id);
  }
};

/// The part of validate() for one process (validate_process.cc).
void validate_process(const Host& host, const KnownIds& known, const Process& process);

/// Throws Invalid with that text unless `good`.
template <typename... Args>
void require(bool good, NoteType note, fmt::format_string<Args...> format, Args&&... args) {
  if (!good) throw Invalid(note, fmt::format(format, std::forward<Args>(args)...));
}

inline bool has_nul(const std::string& text) {
  return text.find('\0') != std::string::npos;
}
inline bool is_path(const std::string& text) {
  return text.starts_with('/') && text.size() < 65536 && !has_nul(text);
}
inline bool is_power_of_two(uint64_t number) {
  return number != 0 && (number & (number - 1)) == 0;
}

}  // namespace rfork::image
