// How the child's threads are scheduled, and what it and they have set with prctl(2).
#pragma once

#include <cstdint>
#include <vector>

#include "image/model.h"
#include "loader/findings.h"
#include "loader/plan_writer.h"
#include "loader/restore.h"

namespace rfork::loader {

/// The image's attributes as far as they can be had here.
struct Attributes {
  bool lenient = false;                     ///< what the kernel refuses stays as it is
  bool can_wake = false;                    ///< timers may wake a sleeping host
  bool parent_stays = true;                 ///< a signal at its death makes sense
  std::vector<std::vector<uint32_t>> cpus;  ///< of each thread; empty: those of this process
};
/// Tries on the calling thread which CPUs can be had. `findings` say what stays as it is here.
/// `parent_stays`: as far as it is known.
Attributes fit_attributes(const image::Snapshot& snapshot, const image::Host& here,
                          const Options& options, bool parent_stays, Findings& findings);

/// By the thread itself, while it has every privilege.
void add_scheduling(PlanWriter& plan, const Attributes& attributes, const image::Process& process,
                    size_t index);
/// By the thread itself, after its credentials, a change of which takes the first of them away.
void add_thread_settings(PlanWriter& plan, const Attributes& attributes,
                         const image::Thread& thread);
/// By the leader, when no memory needs to become executable any more.
void add_process_settings(PlanWriter& plan, const Attributes& attributes,
                          const image::ProcessSettings& settings);

}  // namespace rfork::loader
