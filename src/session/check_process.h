// What a real run would do, found out by doing it up to where it would cost something: the process
// is looked at and stopped for a moment, the destination judges the offer and then the image
// without its pages. Nothing is copied, and nothing stays.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/outcome.h"
#include "session/send_process.h"

namespace rfork::session {

struct CheckOptions {
  SendOptions send;
  std::optional<Endpoint> endpoint;  ///< none: into a file, or nowhere yet
  std::string output;                ///< the file; empty: none
};

struct CheckReport {
  pid_t pid = 0;
  /// What the real run would end with, and why: the code is of what it meets first, the reasons are
  /// all that are known. nullopt: it would go.
  std::optional<Outcome> refusal;
  bool known = false;        ///< the process could be looked at: `snapshot` is of it
  image::Snapshot snapshot;  ///< without what only a stop tells unless `stopped`
  bool stopped = false;      ///< it was, for `paused_ns`
  int64_t paused_ns = 0;
  uint64_t resident_bytes = 0;
  uint64_t image_bytes = 0;           ///< of the image; 0 unless `stopped`
  uint64_t memory_bytes = 0;          ///< of it, private memory
  bool ghost = false;                 ///< its pid would stay here, for its parent
  std::vector<std::string> losses;    ///< what an option gave up, in the words of its refusal
  std::set<int> dropped_fds;          ///< that are open
  std::vector<std::string> warnings;  ///< what is different there
  std::set<std::string> present;      ///< paths of files that the destination has
  std::string destination;            ///< HOST:PORT once it was reached
  bool pid_known = false;             ///< the destination told what follows
  bool pid_kept = false, pid_namespace = false;
};

/// Throws Refusal(interrupted) only: all else is in the report.
CheckReport check_process(pid_t pid, const CheckOptions& options);

}  // namespace rfork::session
