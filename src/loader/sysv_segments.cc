#include "loader/sysv_segments.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "base/io.h"
#include "image/sysv_table.h"

namespace rfork::loader {

using image::Mapping;
using image::SysvSegment;

namespace {

constexpr const char* kNextId = "/proc/sys/kernel/shm_next_id";

/// The slot of an id in the kernel's table; what is above counts how often it was used
/// (ipc/util.h).
constexpr uint32_t kSlotBits = 15;
uint32_t slot_of(int32_t id) {
  return static_cast<uint32_t>(id) & ((1u << kSlotBits) - 1);
}

std::string name_of(const SysvSegment& segment) {
  return segment.key == 0 || segment.removed
             ? fmt::format("SysV segment {}", segment.id)
             : fmt::format("SysV segment {} (key {:#x})", segment.id,
                           static_cast<uint32_t>(segment.key));
}

bool is_same(const SysvSegment& there, const SysvSegment& here) {
  return there.id == here.id && there.key == here.key && there.size == here.size &&
         there.changed_s == here.changed_s;
}

uint64_t own_ipc_namespace() {
  struct stat status {};
  return ::stat("/proc/self/ns/ipc", &status) == 0 ? status.st_ino : 0;
}

/// What another segment has here.
struct Taken {
  bool id = false, key = false;
};
Taken taken_here(const SysvSegment& wanted, const std::vector<SysvSegment>& here) {
  Taken taken;
  for (const SysvSegment& other : here) {
    taken.id |= slot_of(other.id) == slot_of(wanted.id);
    taken.key |= wanted.key != 0 && !wanted.removed && wanted.key == other.key;
  }
  return taken;
}

bool can_have_own_namespace() {
  const int user = has_capability(CAP_SYS_ADMIN) ? 0 : CLONE_NEWUSER;
  return can_unshare(CLONE_NEWIPC | user, kNextId);
}

}  // namespace

SegmentOutlook look_for_segments(std::span<const SysvSegment> segments, uint32_t uid,
                                 bool of_original, bool lenient) {
  SegmentOutlook outlook;
  if (segments.empty()) return outlook;
  const std::vector<SysvSegment> here =
      image::parse_sysv_table(try_read_file_at(AT_FDCWD, image::kSysvTable).value_or(""));
  const uint64_t own = own_ipc_namespace();
  std::vector<std::pair<const SysvSegment*, Taken>> in_the_way;
  bool any_new = false;
  for (const SysvSegment& segment : segments) {
    const auto same = [&](const SysvSegment& other) {
      return is_same(segment, other) && (uid == 0 || other.uid == uid);
    };
    if (of_original && segment.ipc_namespace == own && std::ranges::any_of(here, same)) {
      outlook.originals.insert(segment.id);
      continue;
    }
    any_new = true;
    const Taken taken = taken_here(segment, here);
    if (taken.id || taken.key) in_the_way.emplace_back(&segment, taken);
  }
  if (!any_new) return outlook;
  const bool may_choose = bool(try_open(kNextId, O_WRONLY));
  if (in_the_way.empty() && may_choose) return outlook;
  if (outlook.originals.empty() && can_have_own_namespace()) {
    outlook.own_namespace = true;
    return outlook;
  }
  outlook.other_ids = lenient;
  for (const auto& [segment, taken] : in_the_way) {
    if (lenient && !taken.key) continue;
    outlook.reasons.push_back(
        {fmt::format("{} can't be made here: its {} is taken, and no IPC namespace can be made",
                     name_of(*segment), taken.key ? "key" : "id"),
         "restore it as root, or where user namespaces are allowed"});
  }
  if (outlook.reasons.empty() && !lenient) {
    outlook.reasons.push_back(
        {fmt::format("{} can't have its id here: that needs CAP_CHECKPOINT_RESTORE, or an IPC "
                     "namespace in a user namespace",
                     name_of(segments.front())),
         "--drop-attributes gives it another id, or let root restore it"});
  }
  return outlook;
}

SysvSegments::SysvSegments(const image::Snapshot& snapshot, const Options& options,
                           const std::optional<TargetUser>& user, Findings& findings)
    : there_(snapshot.processes[0].credentials),
      uid_(user ? user->effective : ::geteuid()),
      gid_(user ? user->effective_group : ::getegid()) {
  std::vector<SysvSegment> wanted;
  for (const image::Object& object : snapshot.objects) {
    if (!object.segment) continue;
    segments_[object.id].object = &object;
    wanted.push_back(*object.segment);
  }
  if (wanted.empty()) return;
  const bool same_boot =
      !snapshot.host.boot_id.empty() &&
      read_file("/proc/sys/kernel/random/boot_id").starts_with(snapshot.host.boot_id);
  const bool lenient = options.drop_attributes || snapshot.drop_attributes;
  outlook_ = look_for_segments(wanted, uid_, options.original_waits && same_boot, lenient);
  only_own_ids_ = ::geteuid() != 0 || (user && !user->image_capabilities) ||
                  (outlook_.own_namespace && !has_capability(CAP_SYS_ADMIN));
  findings.reasons.insert(findings.reasons.end(), outlook_.reasons.begin(), outlook_.reasons.end());
  for (auto& [id, placed] : segments_) {
    const SysvSegment& segment = *placed.object->segment;
    placed.original = outlook_.originals.contains(segment.id);
    if (placed.original) continue;
    if (outlook_.own_namespace && segment.key != 0 && !segment.removed) {
      findings.warn(
          fmt::format("{} is in an IPC namespace of the child's own: programs here "
                      "don't find it",
                      name_of(segment)));
    }
    if (outlook_.other_ids) findings.warn(name_of(segment) + " has another id here");
    if (only_own_ids_ && segment.uid != there_.euid)
      findings.warn(
          fmt::format("{} belonged to user {}: here to {}", name_of(segment), segment.uid, uid_));
  }
}

Sink SysvSegments::sink(uint32_t id) const {
  const Placed& placed = segments_.at(id);
  if (placed.original) return {};
  return {Sink::Kind::memory, -1, placed.room};
}

void SysvSegments::take_room(AddressSpace& space) {
  for (auto& [id, placed] : segments_) {
    const auto room = space.place_for_hole(placed.object->size);
    if (!room) {
      throw Refusal(Failure::destination_refused,
                    "the image's address space has no room to make its SysV segments");
    }
    placed.room = *room;
    space.take({*room, *room + placed.object->size});
  }
}

void SysvSegments::add_making(PlanWriter& plan) {
  std::vector<plan::Segment> made;
  const uint64_t path = segments_.empty() || outlook_.other_ids ? 0 : plan.text(kNextId);
  for (const auto& [id, placed] : segments_) {
    const SysvSegment& segment = *placed.object->segment;
    const std::string text = std::to_string(segment.id);
    plan::Segment& one = made.emplace_back();
    one.next_id = path;
    one.id_text = plan.text(text), one.id_text_size = text.size();
    one.size = segment.size;
    one.uid = uid_, one.gid = gid_;
    one.id = segment.id;
    one.key = segment.removed ? IPC_PRIVATE : segment.key;
    one.flags = IPC_CREAT | IPC_EXCL | 0600;
    one.made = -1;
  }
  if (made.empty()) return;
  const uint64_t first = plan.data(std::as_bytes(std::span(made)));
  plan.header().segments = first;
  plan.header().segment_count = made.size();
  uint64_t at = first;
  for (auto& [id, placed] : segments_) {
    placed.id =
        at + (placed.original ? offsetof(plan::Segment, id) : offsetof(plan::Segment, made));
    if (!placed.original) {
      plan.op(plan::OpKind::make_segment, {at},
              fmt::format("shmget of {}", name_of(*placed.object->segment)));
    }
    at += sizeof(plan::Segment);
  }
}

void SysvSegments::attach(PlanWriter& plan, const Placed& placed, uint64_t address,
                          uint64_t flags) const {
  const uint64_t index =
      plan.call(SYS_shmat, {placed.id, address, flags},
                fmt::format("shmat of {} at {:#x}", name_of(*placed.object->segment), address),
                static_cast<int64_t>(address));
  plan.at(index).pointed = 1u << 0;
}

/// Parts with the same distance to the segment's start are of one attachment: shmdt(2) detaches
/// them together if they come from the same shmat(2). Where they are not all of it, they are cut
/// out of an attachment elsewhere, for something else may lie between them.
void SysvSegments::add_attachments(PlanWriter& plan, std::span<const Mapping> mappings) const {
  using Attachment = std::tuple<uint32_t, uint64_t, bool>;
  std::map<Attachment, std::vector<const Mapping*>> attachments;
  for (const Mapping& mapping : mappings) {
    if (mapping.kind != Mapping::Kind::object || !has(mapping.backing)) continue;
    attachments[{mapping.backing, mapping.range.start - mapping.offset, mapping.may_write}]
        .push_back(&mapping);
  }
  for (const auto& [attachment, parts] : attachments) {
    const auto& [backing, start, may_write] = attachment;
    const Placed& placed = segments_.at(backing);
    const uint64_t whole = placed.object->size, flags = may_write ? 0 : SHM_RDONLY;
    uint64_t shown = 0;
    for (const Mapping* part : parts) shown += part->range.size();
    attach(plan, placed, shown == whole ? start : placed.room, flags);
    if (shown == whole) continue;
    for (const Mapping* part : parts) {
      const uint64_t to = part->range.start, size = part->range.size();
      plan.call(
          SYS_mremap, {placed.room + part->offset, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to},
          fmt::format("move a part of a SysV segment to {:#x}", to), static_cast<int64_t>(to));
    }
    plan.call(SYS_munmap, {placed.room, whole}, "munmap of the rest of a SysV segment");
  }
}

void SysvSegments::add_filling(PlanWriter& plan) const {
  for (const auto& [id, placed] : segments_) {
    if (!placed.original) attach(plan, placed, placed.room, 0);
  }
}

void SysvSegments::add_owner(PlanWriter& plan, const Placed& placed) const {
  const SysvSegment& segment = *placed.object->segment;
  shmid_ds state{};
  state.shm_perm.uid = segment.uid == there_.euid || only_own_ids_ ? uid_ : segment.uid;
  state.shm_perm.gid = segment.gid == there_.egid || only_own_ids_ ? gid_ : segment.gid;
  state.shm_perm.mode = static_cast<unsigned short>(segment.mode);
  const uint64_t index = plan.call(SYS_shmctl, {placed.id, IPC_SET, plan.value(state)},
                                   "set the owner of " + name_of(segment));
  plan.at(index).pointed = 1u << 0;
}

void SysvSegments::add_finish(PlanWriter& plan) const {
  for (const auto& [id, placed] : segments_) {
    if (placed.original) continue;
    const SysvSegment& segment = *placed.object->segment;
    plan.call(SYS_munmap, {placed.room, placed.object->size}, "munmap of a filled SysV segment");
    add_owner(plan, placed);
    if (segment.locked) {
      plan.at(plan.try_call(SYS_shmctl, {placed.id, SHM_LOCK, 0}, "lock " + name_of(segment)))
          .pointed = 1u << 0;
    }
    if (segment.removed) {
      plan.at(plan.call(SYS_shmctl, {placed.id, IPC_RMID, 0}, "remove " + name_of(segment)))
          .pointed = 1u << 0;
    }
  }
}

void SysvSegments::remove_made(PlanWriter& plan) {
  const plan::Header& header = plan.header();
  for (uint64_t i = 0; i < header.segment_count; ++i) {
    const auto* segment = reinterpret_cast<const plan::Segment*>(
        plan.local(header.segments + i * sizeof(plan::Segment)));
    if (segment->made >= 0) ::shmctl(segment->made, IPC_RMID, nullptr);
  }
}

}  // namespace rfork::loader
