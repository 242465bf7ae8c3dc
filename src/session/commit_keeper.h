// Sees a move's commit through when rfork-trace is killed in the middle of it.
//
// Between "the child may run" and "the original is gone" the original is stopped, and only the
// destination knows which of the two runs. A process of its own waits beside rfork-trace for that
// moment; if rfork-trace goes without having said that it is done, the keeper asks the destination
// and ends the original or lets it go on. It is forked before anything else happens, holds no
// connection, and costs nothing while it waits.
//
// Where TCP connections get new sockets at the destination it also has the original's, and what
// keeps them silent (tracer/connection_silence.h). Who dies when:
//
//   rfork-trace, before the commit   the keeper ends repair mode and its silence; the original and
//                                    its connections go on
//   rfork-trace, in the commit       the keeper asks, and ends the one or the other
//   after it                         the keeper stays: the old sockets vanish without a word, and
//                                    the host is silent for them until their addresses have gone
//   in doubt                         the keeper stays silent until the original has ended, or
//                                    somebody ends the keeper to let the original go on
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "session/offer.h"
#include "tracer/capture.h"

namespace rfork::session {

class CommitKeeper {
 public:
  enum class Outcome : int { original_goes_on, in_doubt, original_ended };

  /// Forks the keeper. `ask` is called in it with the move's id; it throws while the destination
  /// can't be asked. `how_to_decide` gives the line for the person when it never can.
  CommitKeeper(
      std::function<Resolution(const std::string& move_id)> ask,
      std::function<std::string(pid_t original, const std::string& move_id)> how_to_decide);
  /// Ends the keeper, unless it was told of a commit and not of its end, or it stays. The original
  /// goes on already where no commit has begun.
  ~CommitKeeper();
  CommitKeeper(const CommitKeeper&) = delete;
  CommitKeeper& operator=(const CommitKeeper&) = delete;

  /// It has these connections too from here on, and the netlink sockets: the one that keeps them
  /// silent, and one (NETLINK_ROUTE) that tells of the addresses of their network namespace. If we
  /// die it lets the original go on (SIGCONT), unless that is stopped by job control. Throws
  /// Refusal.
  void hold(pid_t original, int silence, int addresses, bool stopped,
            const std::vector<tracer::KeptSocket>& sockets);
  /// From here on the keeper decides if this process dies. The original must be held already.
  void commit_begins(pid_t original, const std::string& move_id);
  /// Which side runs is settled, or has been said to the person.
  void commit_ends(Outcome outcome);
  /// The process that stays for connections which it holds.
  pid_t pid() const { return keeper_; }

 private:
  UniqueFd line_;
  pid_t keeper_ = -1;
  bool holds_ = false, begun_ = false, stays_ = false;
};

}  // namespace rfork::session
