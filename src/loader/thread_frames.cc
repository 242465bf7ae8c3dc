#include "loader/thread_frames.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/user.h>

#include <algorithm>

#include "base/error.h"
#include "base/value_in.h"
#include "image/host_x86_64.h"
#include "loader/seccomp_filters.h"
#include "loader/vdso_x86_64.h"

namespace rfork::loader {

namespace {

using image::Mapping;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kRedZone = 128;
constexpr uint64_t kStackGuard = 256 * kPage;  // the kernel's stack_guard_gap

constexpr uint64_t kAlign = 16;

bool takes_frame(const Mapping& mapping) {
  return (mapping.protection & PROT_WRITE) != 0 && !mapping.shared &&
         (mapping.kind == Mapping::Kind::anonymous || mapping.kind == Mapping::Kind::file);
}

/// Whether all of `range` is private memory that the program may write.
bool is_writable(const std::vector<Mapping>& mappings, Range range) {
  uint64_t at = range.start;
  for (const Mapping& mapping : mappings) {
    if (!mapping.range.contains(at)) continue;
    if (!takes_frame(mapping)) return false;
    at = mapping.range.end;
    if (at >= range.end) return true;
  }
  return false;
}

/// Lets the stack under `range.end` grow down over `range`, if it is one that does and nothing is
/// in the way.
bool grow_stack(std::vector<Mapping>& mappings, AddressSpace& space, Range range) {
  for (Mapping& mapping : mappings) {
    if (!mapping.range.contains(range.end - 1) || !mapping.grows_down || !takes_frame(mapping))
      continue;
    const Range added{range.start & ~(kPage - 1), mapping.range.start};
    if (added.start >= added.end || !space.is_free({added.start - kStackGuard, added.end}))
      return false;
    space.take(added);
    mapping.range.start = added.start;
    return true;
  }
  return false;
}

/// The highest end, not above `top`, of `room` bytes that hold no patch: what a thread sleeps for
/// may stand under its red zone.
uint64_t under_patches(const image::Process& process, uint64_t room, uint64_t top) {
  const auto in_the_way = [&](const image::MemoryPatch& patch) {
    return Range{patch.address, patch.address + patch.bytes.size()}.overlaps({top - room, top});
  };
  for (auto patch = process.patches.begin(); patch != process.patches.end();) {
    if (top > room && in_the_way(*patch)) {
      top = patch->address;
      patch = process.patches.begin();
    } else {
      ++patch;
    }
  }
  return top;
}

/// Where the frame may end, at the highest; 0: nowhere.
uint64_t find_top(const image::Process& process, const image::Thread& thread, uint64_t room,
                  std::vector<Mapping>& mappings, AddressSpace& space) {
  const uint64_t rsp = image::thread_bases(thread).stack_pointer;
  const image::AltStack& alt = thread.alt_stack;
  const auto alt_range = Range::sized(alt.address, alt.size);
  const bool has_alt = (alt.flags & SS_DISABLE) == 0 && alt_range && alt.size >= room;
  if (has_alt && !(rsp > alt_range->start && rsp <= alt_range->end) &&
      is_writable(mappings, {alt_range->end - room, alt_range->end})) {
    return alt_range->end;
  }
  if (rsp < kRedZone + room + kStackGuard + kPage) return 0;
  const uint64_t top = under_patches(process, room, rsp - kRedZone);
  if (top < room + kStackGuard + kPage) return 0;
  const Range range{top - room, top};
  if (is_writable(mappings, range)) return range.end;
  return grow_stack(mappings, space, range) ? range.end : 0;
}

}  // namespace

ThreadFrames place_frames(const image::Snapshot& snapshot, const image::Host& here,
                          std::vector<Mapping>& mappings, AddressSpace& space, bool code_stays) {
  const image::Process& process = snapshot.processes[0];
  ThreadFrames frames;
  frames.code_stays = code_stays;
  std::vector<uint64_t> tops;
  uint64_t staying = code_stays ? exit_code().size() : 0;
  for (const image::Thread& thread : process.threads) {
    ThreadFrame& entry = frames.threads.emplace_back();
    entry.area = image::translate_xstate(thread, snapshot.host, here);
    const uint64_t room = image::signal_frame_room(entry.area);
    tops.push_back(find_top(process, thread, room, mappings, space));
    entry.stays = tops.back() == 0;
    if (entry.stays) staying += room;
    if (has_seccomp(thread)) staying += seccomp_exit_code(process, thread, 0).size() + kAlign;
  }
  if (staying > 0) {
    const uint64_t size = (staying + kPage - 1) & ~(kPage - 1);
    const auto place = space.place_to_stay(size, process.layout.start_stack, process.layout.brk);
    if (!place)
      throw Refusal(Failure::destination_refused, "the image's address space has no room left");
    frames.leftover = {*place, *place + size};
    space.take(frames.leftover);
  }
  uint64_t next = frames.leftover.start;
  if (code_stays) {
    frames.exit_code = next;
    next += exit_code().size();
  }
  for (size_t i = 0; i < frames.threads.size(); ++i) {
    ThreadFrame& entry = frames.threads[i];
    if (entry.stays) tops[i] = next += image::signal_frame_room(entry.area);
    entry.frame = image::build_signal_frame(process.threads[i], entry.area, tops[i]);
  }
  for (size_t i = 0; i < frames.threads.size(); ++i) {
    if (!has_seccomp(process.threads[i])) continue;
    next = (next + kAlign - 1) & ~(kAlign - 1);
    frames.threads[i].exit_code = next;
    next += seccomp_exit_code(process, process.threads[i], next).size();
  }
  return frames;
}

void note_lost_registers(const image::Process& process, const ThreadFrames& frames,
                         Findings& findings) {
  for (size_t i = 0; i < frames.threads.size(); ++i) {
    for (unsigned index = 0; index < 64; ++index) {
      if ((frames.threads[i].area.lost >> index & 1) == 0) continue;
      findings.warn(fmt::format(
          "XSAVE component {}, {}, of thread {} is lost: this processor doesn't keep it", index,
          image::name_of_xstate_component(index), process.threads[i].tid));
    }
    const auto registers = value_in<user_regs_struct>(process.threads[i].registers);
    if ((registers.ds | registers.es | registers.fs | registers.gs) != 0) {
      findings.warn(fmt::format("the segment selectors ds, es, fs and gs of thread {} are 0 here",
                                process.threads[i].tid));
    }
  }
}

}  // namespace rfork::loader
