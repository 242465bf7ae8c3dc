// Where each thread's signal frame lies in the child.
//
// A frame is put where the kernel itself would put one: on the alternate signal stack when there is
// one that isn't in use, else below the red zone of the thread's own stack. Nothing then remains of
// the restore. A thread that has no such place (its stack is too full, or lies in shared memory)
// gets its frame in a small mapping that stays, read-only.
#pragma once

#include <cstdint>
#include <vector>

#include "image/model.h"
#include "image/signal_frame_x86_64.h"
#include "loader/address_space.h"
#include "loader/findings.h"

namespace rfork::loader {

struct ThreadFrame {
  image::XstateArea area;
  image::SignalFrame frame;
  bool stays = false;      ///< lies in the leftover mapping
  uint64_t exit_code = 0;  ///< of its own, in the leftover mapping; 0: as the others
};

struct ThreadFrames {
  std::vector<ThreadFrame> threads;  ///< in the image's order
  Range leftover;                    ///< empty when nothing stays
  uint64_t exit_code = 0;            ///< address in `leftover` when `code_stays`
  bool code_stays = false;
};

/// `mappings` may be enlarged: a stack that grows down is extended for the frame, as delivering a
/// signal would do. `code_stays`: the vDSO has no room for the exit code.
ThreadFrames place_frames(const image::Snapshot& snapshot, const image::Host& here,
                          std::vector<image::Mapping>& mappings, AddressSpace& space,
                          bool code_stays);

/// Says which registers that a thread used at the origin this host hasn't.
void note_lost_registers(const image::Process& process, const ThreadFrames& frames,
                         Findings& findings);

}  // namespace rfork::loader
