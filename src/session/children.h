// What a daemon knows of its children: the states of each restore, and who may change them.
//
//   receiving ──▶ ready ──▶ granted ──▶ running ──▶ ended
//        └──────────┴──────────┴──▶ aborted (forgotten but for its move's id)
//
// The grant is the point of no return, and only this table gives it. Before it, a RESOLVE turns the
// restore into `aborted`, whatever its worker is doing, and the grant is refused for ever. After
// it, a RESOLVE waits until the worker has let the child go or has died, and then tells which. So
// at every moment a move is exactly one of "will never run there" and "runs there", and who asks is
// told.
//
// Plain data: no process is touched here. The daemon does what the table decides.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "session/child_info.h"
#include "session/offer.h"

namespace rfork::session {

/// Number of a worker, never used twice.
using WorkerId = uint64_t;

struct Child {
  uint64_t number = 0;  ///< info.id as a number
  ChildInfo info;
  WorkerId worker = 0;  ///< that restores it, or did
  pid_t wait_pid = 0;   ///< to be waited for: the child, or the init of its pid namespace; 0 then
  UniqueFd pidfd;       ///< of the child itself
  UniqueFd end_pipe;    ///< where that init tells of the child; empty: the child is waited for
  std::optional<int> told_end;  ///< a wait status that came through it
  bool attended = false;        ///< `worker` stays with it
  std::string log_path;         ///< empty: the log has no name
  UniqueFd log;                 ///< kept open only when it has no name
  bool aborting = false;        ///< its end is decided
};

class Children {
 public:
  explicit Children(size_t max_ended) : max_ended_(max_ended) {}

  /// A restore begins. Throws Refusal(destination_refused) when the move's id was seen before.
  Child& announce(ChildInfo info, WorkerId worker);
  /// The child that `worker` restores, while it does; nullptr else.
  Child* of_worker(WorkerId worker);
  /// The child that runs and was let go by `worker`; nullptr when there is none.
  Child* running_of(WorkerId worker);
  /// By what rforkctl calls it; nullptr when there is none.
  Child* look_up(const std::string& id);
  /// By what rforkctl calls it. Throws Refusal(destination_refused) when there is none.
  Child& find(const std::string& id);
  /// By the pid that wait(2) gave; nullptr when it is none of ours.
  Child* by_wait_pid(pid_t pid);

  /// Asked by its worker: may the child be let go? Changes its state when the answer is yes.
  bool grant(Child& child);
  void let_go(Child& child, int64_t now_ns);
  /// It was reaped.
  void end(Child& child, const loader::ChildEnd& how, int64_t now_ns);
  /// Takes out the oldest ended children that are more than are remembered, and gives them, for
  /// their logs.
  std::vector<Child> take_excess();
  /// It never runs. Forgets all but its move's id.
  void abort(Child& child);
  /// Takes an ended child out. Throws Refusal(destination_refused) when it has not ended.
  Child remove(const std::string& id);

  /// What a RESOLVE decides: nullopt means that the answer comes when the grant is through.
  /// `abort_worker` gets the worker of a restore that this question ends.
  std::optional<Resolution> resolve(const std::string& move_id,
                                    std::optional<WorkerId>& abort_worker);

  /// Children after number `after`, in order, at most `most`.
  std::vector<const Child*> list(uint64_t after, size_t most) const;
  size_t alive() const;  ///< let go, and not ended

 private:
  void remember_aborted(std::string move_id);

  size_t max_ended_;
  uint64_t next_number_ = 1;
  std::map<uint64_t, Child> children_;
  std::deque<std::string> aborted_;  ///< move ids, the newest last
};

}  // namespace rfork::session
