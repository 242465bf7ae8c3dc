// The part of the plan that makes memory: mappings, then the stream of page data into them, then
// what can only be set when the data is there.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "image/format.h"
#include "loader/host_files.h"
#include "loader/plan_writer.h"
#include "loader/sysv_segments.h"
#include "loader/thread_frames.h"

namespace rfork::loader {

/// Descriptors of this process by their number in the child; each is handed over once.
class HandedFds {
 public:
  explicit HandedFds(HelperFds& helpers) : helpers_(helpers) {}
  int operator()(int fd) {
    const auto known = numbers_.find(fd);
    return known != numbers_.end() ? known->second : numbers_[fd] = helpers_.hand(fd);
  }

 private:
  HelperFds& helpers_;
  std::map<int, int> numbers_;
};

class MemoryPlan {
 public:
  /// `mappings` as they are to be made; `frames` are written into them later.
  MemoryPlan(const image::Metadata& metadata, std::vector<image::Mapping> mappings,
             const ThreadFrames& frames, const HostFiles& files, SysvSegments& segments);

  /// mmap of everything, and where each run of the stream goes.
  void add_mappings(PlanWriter& plan, HandedFds& handed) const;
  void add_stream(PlanWriter& plan, HandedFds& handed) const;
  /// Patches and frames, then protections, locks and names.
  void add_finish(PlanWriter& plan) const;

 private:
  struct SharedAnonymous {
    Range whole;
    std::vector<const image::Mapping*> parts;
  };

  bool is_absent(const image::DataRun& run) const;
  void add_mapping(PlanWriter& plan, HandedFds& handed, const image::Mapping& mapping) const;
  void add_protection_keys(PlanWriter& plan) const;
  void add_shared_anonymous(PlanWriter& plan) const;
  void add_state(PlanWriter& plan, const image::Mapping& mapping) const;
  Sink sink_of(const image::DataRun& run) const;
  uint32_t first_protection(const image::Mapping& mapping) const;
  bool is_written(const image::Mapping& mapping) const;
  bool made_whole(const image::Mapping& mapping) const;
  bool is_segment(const image::Mapping& mapping) const;

  const image::Metadata& metadata_;
  const image::Process& process_;
  std::vector<image::Mapping> mappings_;
  const ThreadFrames& frames_;
  const HostFiles& files_;
  SysvSegments& segments_;
  std::map<uint32_t, SharedAnonymous> shared_;
  std::vector<Range> written_;  ///< sorted by start
};

/// `0x7f12..-0x7f34.. of /usr/lib/x.so`
std::string words_of(const image::Mapping& mapping);

}  // namespace rfork::loader
