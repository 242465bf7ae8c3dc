// NUMA memory policies of the image, fitted to the nodes of this host.
#pragma once

#include <vector>

#include "image/model.h"
#include "loader/findings.h"
#include "loader/plan_writer.h"

namespace rfork::loader {

class MemoryPolicies {
 public:
  /// Tries on the calling thread which can be had. `findings` say what differs here.
  MemoryPolicies(const image::Process& process, Findings& findings);

  /// Before there is any memory, which is to come from where the leader's policy says.
  void add_of_leader(PlanWriter& plan) const;
  /// By each other thread: it has the leader's until then.
  void add_of_thread(PlanWriter& plan, size_t index) const;
  /// When all is mapped, and nothing is filled yet.
  void add_of_memory(PlanWriter& plan) const;

 private:
  std::vector<image::MemoryPolicy> threads_;
  std::vector<image::RangePolicy> ranges_;
};

}  // namespace rfork::loader
