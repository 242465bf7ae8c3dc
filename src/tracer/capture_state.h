// What a Capture keeps between its passes: capture.cc has them, capture_end.cc and leave_ghost.cc
// the last.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tracer/capture.h"
#include "tracer/contents.h"
#include "tracer/forked_copy.h"
#include "tracer/inventory.h"
#include "tracer/page_pipe.h"
#include "tracer/proc_text.h"
#include "tracer/remote_syscalls.h"
#include "tracer/stopped_process.h"
#include "tracer/surroundings.h"

namespace rfork::tracer {

std::optional<Range> vdso_range(const std::vector<MapsLine>& maps);

struct Capture::State {
  const Examination& examination;
  Options options;
  pid_t pid;
  ProcessMemory original;
  std::unique_ptr<StoppedProcess> stopped;
  std::unique_ptr<InjectionSite> site;
  std::unique_ptr<LandlockProbe> landlock;  // null: not needed
  std::unique_ptr<ForkedCopy> copy;
  std::unique_ptr<PagePipe> copied_pages;  // null: by copy->memory() only
  std::chrono::nanoseconds paused{0};
  bool held = false;
  std::vector<std::string> losses;
  bool losses_noted = false;

  Inventory inventory;
  image::Snapshot snapshot;
  std::vector<image::DataRun> runs;
  Contents contents;
  size_t pieces_of_original = 0;  // the first ones, to be read while the original stands still
  Bytes early;                    // their bytes, when they were few
  bool read_early = false;
  bool refresh_from_copy = false;  // the flags of mappings are still those of the examination

  size_t next_piece = 0;
  uint64_t offset = 0;  // into that piece, padding included
  uint64_t early_offset = 0;

  State(const Examination& examined, const Options& wanted)
      : examination(examined), options(wanted), pid(examined.pid), original(examined.pid) {}

  ~State() {
    try {
      take_back_hold();
      let_go();
    } catch (const std::exception&) {
      // The process has ended meanwhile: nothing is left to let go.
    }
  }

  void check_interrupted() const {
    if (options.interrupted())
      throw Refusal(Failure::interrupted, fmt::format("interrupted; {} goes on", pid));
  }
  const ProcessMemory& snapshot_memory() const { return copy ? copy->memory() : original; }
  pid_t snapshot_pid() const { return copy ? copy->pid() : pid; }

  void freeze(std::vector<MapsLine>& maps);
  void read_threads(image::Process& process);
  void read_process_wide(image::Process& process, const std::vector<MapsLine>& maps);
  void read_timers_and_signals(RemoteSyscalls& calls, image::Process& process);
  static user_regs_struct going_on(const image::Thread& thread);
  void settle_timer_threads(image::Process& process);
  int32_t find_clock_thread(const image::Process& process, const image::PosixTimer& timer);
  void take_stock(const image::Process& process, const std::vector<MapsLine>& maps,
                  const std::set<std::string>& present);
  void read_connections();
  void hold();
  void take_back_hold();
  void read_early_pieces();
  void refuse_uncarried(RemoteSyscalls& calls) const;
  void describe_copy(image::Process& process);
  void assemble(image::Process process);
  void read(const Piece& piece, std::span<std::byte> buffer);
  void let_go();
  void remove_own_segments() const;
  void forget_connections();
};

}  // namespace rfork::tracer
