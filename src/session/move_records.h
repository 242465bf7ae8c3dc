// What became of each move, in files that outlive the rforkd that knows it.
//
// An rforkd that ssh started ends with its connection. When that breaks in the middle of a move,
// the client asks another one, which has no table of children to look into: it reads, and decides,
// here. The rules are those of children.h, with a file in the place of the table and flock(2)
// around each step:
//
//   receiving ──▶ granted ──▶ running
//        └────────────┴─────▶ aborted
//
// A question turns `receiving` into `aborted`, and the grant is refused from then on, in whichever
// process. No file means that nothing is known: the question may have come to another host or user
// than the move, so that it must not decide. The same goes for a file of another boot, whose last
// words may never have reached the disk, and for `granted` with nothing after it.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "session/offer.h"

namespace rfork::session {

class MoveRecords {
 public:
  /// Makes the directory `state_dir`/moves (mode 0700) if it can; else it keeps nothing, and every
  /// question is answered by "unknown". Keeps the newest `max_former` records of former moves.
  MoveRecords(const std::string& state_dir, size_t max_former);

  /// A restore begins.
  void begin(const std::string& move_id);
  /// Whether its child may still be let go. Throws Error when that can't be written down.
  bool grant(const std::string& move_id);
  void let_go(const std::string& move_id, const std::string& child_id, pid_t pid);
  /// Its child never ran and never will.
  void abort(const std::string& move_id);

  /// What became of a move of another process's, after waiting a little for a grant to get through.
  /// What is not decided is aborted, for ever.
  Resolution resolve(const std::string& move_id);

 private:
  std::string path_of(const std::string& move_id) const;

  std::string directory_;  ///< empty: none
  std::string boot_id_;
  std::map<std::string, UniqueFd> own_;  ///< of restores that began here
};

}  // namespace rfork::session
