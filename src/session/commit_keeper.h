// Sees a move's commit through when rfork-trace is killed in the middle of it.
//
// Between "the child may run" and "the original is gone" the original is stopped, and only the
// destination knows which of the two runs. A process of its own waits beside rfork-trace for that
// moment; if rfork-trace goes without having said that it is done, the keeper asks the destination
// and ends the original or lets it go on. It is forked before anything else happens, holds no
// connection, and costs nothing while it waits.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "base/unique_fd.h"
#include "session/offer.h"

namespace rfork::session {

class CommitKeeper {
 public:
  /// Forks the keeper. `ask` is called in it with the move's id; it throws while the destination
  /// can't be asked. `how_to_decide` gives the line for the person when it never can.
  CommitKeeper(
      std::function<Resolution(const std::string& move_id)> ask,
      std::function<std::string(pid_t original, const std::string& move_id)> how_to_decide);
  /// Ends the keeper, unless it was told of a commit and not of its end.
  ~CommitKeeper();
  CommitKeeper(const CommitKeeper&) = delete;
  CommitKeeper& operator=(const CommitKeeper&) = delete;

  /// From here on the keeper decides if this process dies. The original must be held already.
  void commit_begins(pid_t original, const std::string& move_id);
  /// Which side runs is settled, or has been said to the person.
  void commit_ends();

 private:
  UniqueFd pipe_;
  pid_t keeper_ = -1;
};

}  // namespace rfork::session
