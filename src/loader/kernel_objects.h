// Makes descriptors again that have nothing behind them but a state of the kernel's, and pipes that
// lead from the process to itself.
#pragma once

#include <map>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/findings.h"
#include "loader/plan_writer.h"

namespace rfork::loader {

/// Of the kinds eventfd, signalfd, timerfd (disarmed) and epoll (empty). Empty, with a finding,
/// when it can't be made.
UniqueFd make_kernel_object(const image::Description& description, Findings& findings);

/// The ends of pipes; each call gives the end of one description.
class PipeMaker {
 public:
  explicit PipeMaker(const image::Snapshot& snapshot) : snapshot_(snapshot) {}
  UniqueFd open(const image::Description& description, Findings& findings);
  /// Closes what no description has taken.
  void let_go() { pipes_.clear(); }

 private:
  UniqueFd open_end(const image::Description& description, Findings& findings);

  const image::Snapshot& snapshot_;
  struct Pipe {
    UniqueFd reader, writer;  ///< until a description has them
    UniqueFd both;            ///< the same pipe, both ways
  };
  std::map<uint32_t, Pipe> pipes_;  ///< by the description that has what is in it
};

/// O_NONBLOCK and the like, as the description had them.
void set_status_flags(int fd, int32_t flags);
/// Gives a pipe or FIFO its capacity and what was in it. `fd` writes and doesn't wait.
void fill_pipe(int fd, const image::Description& description, Findings& findings);

/// The child's own calls, with all descriptors in place: timers get their time (captured when it
/// was `realtime_ns`), epoll instances what they watch. Edges that were told are not told again.
void arm_timer(PlanWriter& plan, int fd, const image::FileTimer& timer, int64_t realtime_ns);
void add_watches(PlanWriter& plan, int fd, const image::Description& description,
                 const image::Snapshot& snapshot);
/// As many as add_watches() may need.
uint64_t operations_for_watches(const image::Description& description);

}  // namespace rfork::loader
