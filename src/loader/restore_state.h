// What a restore holds between the calls of its caller, and its passes. The interface is restore.h.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "image/host.h"
#include "loader/address_space.h"
#include "loader/attributes.h"
#include "loader/channel.h"
#include "loader/held_connections.h"
#include "loader/host_files.h"
#include "loader/identity.h"
#include "loader/memory_plan.h"
#include "loader/memory_policies.h"
#include "loader/open_files.h"
#include "loader/plan_writer.h"
#include "loader/process_plan.h"
#include "loader/remade_connections.h"
#include "loader/restore.h"
#include "loader/spawn.h"
#include "loader/sysv_segments.h"
#include "loader/thread_frames.h"
#include "loader/thread_plan.h"
#include "loader/vdso_x86_64.h"

namespace rfork::loader {

inline constexpr uint64_t kPageSize = 4096;

/// Helper descriptors that the stub knows by their order. The last one is there only where a holder
/// gives connections.
enum HelperIndex { kControl, kRing, kStub, kPlan, kHolder };

/// Page data of the image's vDSO on its way through the stream.
struct VdsoRun {
  uint64_t stream_offset = 0, size = 0, vdso_offset = 0;
};

struct Restore::State {
  State(const image::Metadata& metadata, const Options& options);
  ~State();

  void begin();
  void write_second_part();
  void note_vdso(std::span<const std::byte> data);
  void await_leaving();
  void hand_over_connections();
  [[noreturn]] void explain(const plan::Message* message);

  const image::Metadata& metadata_;
  const image::Snapshot& snapshot_;
  const image::Process& process_;
  const Options options_;
  Findings findings_;
  image::Host here_;
  KernelVdso kernel_;
  std::optional<TargetUser> user_;
  std::vector<Place> places_;
  HeldConnections held_;
  RemadeConnections remade_;
  std::unique_ptr<HostFiles> files_;
  std::unique_ptr<OpenFiles> open_files_;
  std::unique_ptr<SysvSegments> segments_;
  ProcessSettings settings_;
  Attributes attributes_;
  std::unique_ptr<MemoryPolicies> policies_;
  UniqueFd removed_cwd_;  ///< the working directory, where its name is gone
  ThreadFrames frames_;
  Hole hole_;
  uint64_t vdso_place_ = 0;
  HelperFds helpers_;
  HandedFds handed_{helpers_};
  int first_of_image_ = 0;  ///< number, in the child, of the helper descriptors behind those
  UniqueFd stub_;
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<PlanWriter> plan_;
  std::unique_ptr<MemoryPlan> memory_;

  std::optional<Spawned> spawned_;
  Place place_;
  bool reaped_ = false, released_ = false;
  uint64_t streamed_ = 0;
  std::vector<VdsoRun> vdso_runs_;
  Bytes vdso_carried_;

 private:
  void check_image();
  void find_files();
  void open_as_user();
  std::vector<image::Mapping> place_memory();
  void place_hole(AddressSpace& space);
  void make_plan(std::vector<image::Mapping> mappings);
  void expect_vdso();
  void add_frames();
  void fill_header();
  ExeLink exe_link();
  void add_last_steps(const ThreadPlanInput& input);
};

}  // namespace rfork::loader
