// Where the output of children goes: one file each in the daemon's state directory, or files
// without a name when there can be no directory.
#pragma once

#include <string>

#include "base/unique_fd.h"

namespace rfork::session {

/// The directory for this user: /var/lib/rforkd for root, else below $XDG_STATE_HOME or
/// ~/.local/state. Empty when there is no home.
std::string default_state_dir();

/// Removes all but the newest `most` files of a directory whose names end so.
void keep_newest(const std::string& directory, const std::string& suffix, size_t most);

class LogStore {
 public:
  /// Makes the directory (mode 0700) if it can. Keeps at most `max_former` logs of former daemons,
  /// the newest.
  LogStore(const std::string& state_dir, size_t max_former);

  struct Log {
    UniqueFd fd;       ///< for reading, and for writing at the end
    std::string path;  ///< empty: it has no name
  };
  /// A new log for a child. Throws Error.
  Log create(const std::string& move_id) const;
  /// Forgets one by its path.
  static void remove(const std::string& path);
  /// Why logs have no names; empty when they have.
  const std::string& problem() const { return problem_; }

 private:
  std::string directory_;  ///< empty: none
  std::string problem_;
};

}  // namespace rfork::session
