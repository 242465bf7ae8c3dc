// The texts of /proc, parsed. Pure functions, so that they can be tested without a process.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/range.h"
#include "image/model.h"

namespace rfork::tracer {

/// A line of /proc/PID/maps.
struct MapsLine {
  Range range;
  bool read = false, write = false, execute = false, shared = false;
  uint64_t offset = 0;
  uint64_t device = 0;  ///< makedev(major, minor)
  uint64_t inode = 0;
  std::string name;      ///< without " (deleted)"
  bool deleted = false;  ///< the file has no name any more
  bool operator==(const MapsLine&) const = default;
};

/// Throws std::invalid_argument with the line that is none. The gate page [vsyscall] is left out.
std::vector<MapsLine> parse_maps(std::string_view text);

/// A line of /proc/PID/mountinfo.
struct Mount {
  uint64_t id = 0;
  std::string point;    ///< as the process sees it
  uint64_t device = 0;  ///< makedev(major, minor)
  bool is_proc = false;
};

/// Throws std::invalid_argument with the line that is none.
std::vector<Mount> parse_mountinfo(std::string_view text);

/// What smaps adds to a mapping.
struct SmapsEntry {
  Range range;
  uint64_t kernel_page_size = 0;   ///< bytes
  uint64_t swapped = 0;            ///< bytes; of shared memory too
  int protection_key = 0;          ///< pkey_mprotect(2); 0: none
  std::vector<std::string> flags;  ///< two letters each, as VmFlags
  bool has(std::string_view flag) const;
};
std::vector<SmapsEntry> parse_smaps(std::string_view text);

/// /proc/PID/status as key and value, spaces around the value removed.
std::map<std::string, std::string, std::less<>> parse_status(std::string_view text);

/// /proc/PID/stat behind the command name: field N of proc(5) is at index N - 3. Throws
/// std::invalid_argument.
std::vector<std::string> parse_stat_fields(std::string_view text);

/// /proc/PID/limits by RLIMIT_*. Throws std::invalid_argument when one of the 16 is missing.
std::array<image::Limit, 16> parse_limits(std::string_view text);

/// What parse_locks() calls a lease that somebody waits for, who opens the file.
inline const std::string kBreakingLease = "BREAKING LEASE";

/// The locks and leases of a /proc/PID/fdinfo/FD text. What is no image::FileLock gives its name
/// instead.
using Locks = std::vector<std::variant<image::FileLock, std::string>>;
Locks parse_locks(std::string_view fdinfo);

/// A value of a text of `key: value` or `key : value` lines (fdinfo, sched); nullopt when there is
/// none.
std::optional<std::string> value_of(std::string_view text, std::string_view key);

/// Splits at `separator`, empty parts left out.
std::vector<std::string_view> split(std::string_view text, char separator);
/// What it gave would outlive the text.
std::vector<std::string_view> split(std::string&& text, char separator) = delete;

}  // namespace rfork::tracer
