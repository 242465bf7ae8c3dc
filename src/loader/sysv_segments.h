// SysV shared memory: where the segments of an image can be, and the part of the plan that makes,
// fills and attaches them.
//
// A program keeps the id of a segment as it keeps a pid, so the id comes back: in this IPC
// namespace if it is free there and may be chosen (/proc/sys/kernel/shm_next_id), else in one of
// the child's own. The frozen original of a move has its segments still: the child attaches these.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "image/model.h"
#include "loader/address_space.h"
#include "loader/findings.h"
#include "loader/host_files.h"
#include "loader/identity.h"
#include "loader/plan_writer.h"

namespace rfork::loader {

/// What becomes of segments on this host.
struct SegmentOutlook {
  bool own_namespace = false;   ///< the child needs an IPC namespace of its own for them
  bool other_ids = false;       ///< they can't have their ids, and that was accepted
  std::set<int32_t> originals;  ///< ids of those that are here, the very ones
  std::vector<Reason> reasons;  ///< why they can't be had
};
/// With this process's capabilities, for a child of user `uid`. `of_original`: they are of the
/// original of a move, which stands frozen under this kernel; what isn't that user's doesn't become
/// the child's. `lenient`: other ids are accepted.
SegmentOutlook look_for_segments(std::span<const image::SysvSegment> segments, uint32_t uid,
                                 bool of_original, bool lenient);

class SysvSegments {
 public:
  SysvSegments(const image::Snapshot& snapshot, const Options& options,
               const std::optional<TargetUser>& user, Findings& findings);

  bool own_namespace() const { return outlook_.own_namespace; }
  bool has(uint32_t object) const { return segments_.contains(object); }
  /// Where the bytes of object `id` go.
  Sink sink(uint32_t id) const;
  /// Takes room for each segment while it is filled. Throws Refusal when there is none.
  void take_room(AddressSpace& space);

  /// shmget(2) of those that aren't here.
  void add_making(PlanWriter& plan);
  /// shmat(2) of what those of `mappings` show that are of segments.
  void add_attachments(PlanWriter& plan, std::span<const image::Mapping> mappings) const;
  /// All of each, to be filled.
  void add_filling(PlanWriter& plan) const;
  /// When they are filled and attached: owners, locks, removal.
  void add_finish(PlanWriter& plan) const;

  /// Removes what the stub has made. It has ended.
  static void remove_made(PlanWriter& plan);

 private:
  struct Placed {
    const image::Object* object = nullptr;
    bool original = false;
    uint64_t room = 0;  ///< address where all of it is attached for a while
    uint64_t id = 0;    ///< address of its id in the plan
  };

  void attach(PlanWriter& plan, const Placed& placed, uint64_t address, uint64_t flags) const;
  void add_owner(PlanWriter& plan, const Placed& placed) const;

  const image::Credentials& there_;
  uint32_t uid_, gid_;  ///< of the child
  bool only_own_ids_ = false;
  SegmentOutlook outlook_;
  std::map<uint32_t, Placed> segments_;  ///< by Object id
};

}  // namespace rfork::loader
