// The part of the plan that is the leader's: everything of the process that is not memory and not a
// thread's own.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "image/model.h"
#include "loader/findings.h"
#include "loader/open_files.h"
#include "loader/plan_writer.h"
#include "loader/thread_plan.h"
#include "loader/vdso_x86_64.h"

namespace rfork::loader {

/// Places that must exist before anything runs, and limits as far as they can be had.
struct ProcessSettings {
  std::string cwd = "/";
  std::string root;  ///< empty: this process's
  std::array<image::Limit, 16> limits{};
  bool set_mm_map = false;  ///< prctl(PR_SET_MM_MAP) is there
  bool set_personality = false;
};
ProcessSettings process_settings(const image::Process& process, int helper_fds, Findings& findings);
/// The image's, made where it is missing; "/" where that can't be. With the rights of the child's
/// user.
std::string working_directory(const image::Process& process, HostFiles& files, Findings& findings);

/// The program's file for the exe link, and how it can be set.
struct ExeLink {
  int fd = -1;             ///< in the child; -1: none
  bool allowed = false;    ///< the child holds the capability; else a process is made that does
  uint64_t stack_end = 0;  ///< for that process
};
/// brk, arguments, environment, auxv, exe link. After the page data. `exe_operation` was added
/// by add_exe_operation() outside of what the leader walks.
void add_memory_layout(PlanWriter& plan, const image::Process& process,
                       const ProcessSettings& settings, const ExeLink& exe, uint64_t exe_operation);
/// The operation that sets the exe link; gives its index.
uint64_t add_exe_operation(PlanWriter& plan, const image::Process& process, const ExeLink& exe);
/// Signal actions, then what all threads share: umask, root.
void add_signal_actions(PlanWriter& plan, const image::Process& process);
void add_shared_settings(PlanWriter& plan, const image::Process& process,
                         const ProcessSettings& settings);
/// Limits: after the threads and before the credentials. RLIMIT_NOFILE stays as high as can be.
void add_limits(PlanWriter& plan, const ProcessSettings& settings);
/// RLIMIT_NOFILE, when all descriptors are there: some may be above it.
void add_descriptor_limit(PlanWriter& plan, const ProcessSettings& settings);
void add_pending_signals(PlanWriter& plan, const image::Process& process);
/// What must be done as the child's own user.
void add_working_directory(PlanWriter& plan, const ProcessSettings& settings);
/// After every thread has its credentials, which reset it.
void add_dumpable(PlanWriter& plan, const image::Process& process);
/// After GO.
void add_timers(PlanWriter& plan, const image::Process& process);

/// How the child gets its vDSO.
struct VdsoPlan {
  const KernelVdso& kernel;
  const image::Process& process;
  uint64_t parked = 0;         ///< start of the parked special mappings in the hole
  uint64_t place_to_stay = 0;  ///< for this kernel's, when the old one is patched
};
/// Moves this kernel's vDSO and vvar to the old place, or patches the old one (`carried`: its
/// bytes); gives the address of this kernel's vDSO in the child.
uint64_t add_vdso(PlanWriter& plan, const VdsoPlan& input, std::span<const std::byte> carried);
/// Writes `code` into this kernel's vDSO at `vdso` + `offset`.
void add_exit_code(PlanWriter& plan, const KernelVdso& kernel, uint64_t vdso, uint64_t offset);

}  // namespace rfork::loader
