// The part of the plan that each thread walks itself: its registers' bases, its lists in memory,
// its signals, its user.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "image/model.h"
#include "loader/attributes.h"
#include "loader/identity.h"
#include "loader/memory_policies.h"
#include "loader/plan_writer.h"
#include "loader/thread_frames.h"

namespace rfork::loader {

struct ThreadPlanInput {
  const image::Process& process;
  const ThreadFrames& frames;
  const Hole& hole;
  const std::optional<TargetUser>& user;
  const Attributes& attributes;
  const MemoryPolicies& policies;
  bool keep_ids = false;
  bool drop_capabilities = false;
  uint64_t exit_code = 0;  ///< its address in the child
  uint64_t tids = 0;       ///< where each thread writes its tid, an int32_t each
  std::function<void(int32_t tid)> add_own_files = [](int32_t) {};  ///< what a thread opens itself
};

struct OpRange {
  uint64_t first = 0, count = 0;
};

/// Operations of every thread but the leader, which the leader's start_thread operations name.
std::vector<OpRange> add_thread_bodies(PlanWriter& plan, const ThreadPlanInput& input);
void add_thread_starts(PlanWriter& plan, const ThreadPlanInput& input,
                       const std::vector<OpRange>& bodies);
/// What every thread does for itself, up to its credentials.
void add_thread_state(PlanWriter& plan, const ThreadPlanInput& input, size_t index);
/// Queues the signals that wait for the calling thread, but for those of timers.
void add_pending(PlanWriter& plan, const image::Process& process, const image::Thread& thread);
/// Credentials, capabilities, no_new_privs, and what goes with them: each thread has its own.
void add_credentials(PlanWriter& plan, const ThreadPlanInput& input, size_t index);
/// The jump out of the hole.
void add_leave(PlanWriter& plan, const ThreadPlanInput& input, size_t index);

}  // namespace rfork::loader
