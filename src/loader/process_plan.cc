#include "loader/process_plan.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "loader/posix_timers.h"

namespace rfork::loader {

namespace {

constexpr const char* kLimitNames[16] = {
    "RLIMIT_CPU",      "RLIMIT_FSIZE", "RLIMIT_DATA",   "RLIMIT_STACK",
    "RLIMIT_CORE",     "RLIMIT_RSS",   "RLIMIT_NPROC",  "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",  "RLIMIT_AS",    "RLIMIT_LOCKS",  "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE", "RLIMIT_NICE",  "RLIMIT_RTPRIO", "RLIMIT_RTTIME"};

std::string words_of_limit(uint64_t value) {
  return value == RLIM_INFINITY ? "unlimited" : std::to_string(value);
}

/// The image's limits, or as near as this process may set them.
std::array<image::Limit, 16> attainable_limits(const image::Process& process, Findings& findings) {
  const bool may_raise = has_capability(CAP_SYS_RESOURCE);
  std::array<image::Limit, 16> limits = process.limits;
  for (int i = 0; i < 16; ++i) {
    image::Limit& limit = limits[static_cast<size_t>(i)];
    rlimit own{};
    if (::getrlimit(static_cast<__rlimit_resource>(i), &own) < 0) continue;
    if (may_raise || limit.hard <= own.rlim_max) continue;
    findings.warn(fmt::format("{}: hard limit {} can't be set here, {} stays", kLimitNames[i],
                              words_of_limit(limit.hard), words_of_limit(own.rlim_max)));
    limit.hard = own.rlim_max;
    limit.soft = std::min(limit.soft, limit.hard);
  }
  return limits;
}

/// Tries it on this process: a container's filter may forbid it.
bool may_set_personality(uint64_t wanted, Findings& findings) {
  const int own = ::personality(0xffffffff);
  if (static_cast<uint64_t>(own) == wanted) return false;
  if (own >= 0 && ::personality(wanted) >= 0 && ::personality(static_cast<unsigned long>(own)) >= 0)
    return true;
  findings.warn(fmt::format("personality {:#x} can't be set here", wanted));
  return false;
}

bool is_directory(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&

         ::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0;
}

}  // namespace

std::string working_directory(const image::Process& process, HostFiles& files, Findings& findings) {
  if (is_directory(process.cwd)) return process.cwd;
  std::vector<std::string> made;
  if (process.cwd.starts_with('/') && files.created().make_directories(process.cwd, &made) &&
      is_directory(process.cwd)) {
    for (const std::string& path : made) findings.warn("created directory " + path);
    return process.cwd;
  }
  findings.warn(fmt::format(
      "the working directory {} isn't here and can't be made: the child is in /", process.cwd));
  return "/";
}

ProcessSettings process_settings(const image::Process& process, int helper_fds,
                                 Findings& findings) {
  ProcessSettings settings;
  settings.limits = attainable_limits(process, findings);
  rlimit descriptors{};
  if (::getrlimit(RLIMIT_NOFILE, &descriptors) == 0 &&
      static_cast<rlim_t>(helper_fds) > descriptors.rlim_max) {
    findings.refuse(
        fmt::format("the process needs descriptors up to {}, and the hard limit here is {}",
                    helper_fds, descriptors.rlim_max),
        "raise RLIMIT_NOFILE (ulimit -Hn)");
  }
  if (!process.root.empty() && process.root != "/") {
    settings.root = process.root;
    if (!has_capability(CAP_SYS_CHROOT)) {
      findings.refuse(
          fmt::format("the process runs in the root {}, which needs CAP_SYS_CHROOT", process.root));
    }
  }
  unsigned size = 0;
  settings.set_mm_map =
      ::prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) == 0 && size == sizeof(prctl_mm_map);
  if (!settings.set_mm_map) {
    findings.warn(
        "this kernel has no PR_SET_MM_MAP: the heap can't grow by brk, malloc goes on with mmap; "
        "ps shows "
        "other arguments");
  }
  settings.set_personality = may_set_personality(process.personality, findings);
  return settings;
}

namespace {

prctl_mm_map memory_map(PlanWriter& plan, const image::Process& process, int exe_fd) {
  const image::MemoryLayout& layout = process.layout;
  prctl_mm_map map{};
  map.start_code = layout.start_code, map.end_code = layout.end_code;
  map.start_data = layout.start_data, map.end_data = layout.end_data;
  map.start_brk = layout.start_brk, map.brk = layout.brk;
  map.start_stack = layout.start_stack;
  map.arg_start = layout.arg_start, map.arg_end = layout.arg_end;
  map.env_start = layout.env_start, map.env_end = layout.env_end;
  map.auxv = reinterpret_cast<__u64*>(plan.data(process.auxv));
  map.auxv_size = static_cast<uint32_t>(process.auxv.size());
  map.exe_fd = static_cast<uint32_t>(exe_fd);
  return map;
}

}  // namespace

uint64_t add_exe_operation(PlanWriter& plan, const image::Process& process, const ExeLink& exe) {
  const prctl_mm_map map = memory_map(plan, process, exe.fd);
  return plan.try_call(SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, plan.value(map), sizeof map, 0},
                       "set the exe link");
}

void add_memory_layout(PlanWriter& plan, const image::Process& process,
                       const ProcessSettings& settings, const ExeLink& exe,
                       uint64_t exe_operation) {
  if (!settings.set_mm_map) return;
  const prctl_mm_map map = memory_map(plan, process, -1);
  plan.call(SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, plan.value(map), sizeof map, 0},
            "prctl PR_SET_MM_MAP (brk, arguments, auxv)");
  // The exe link in a call of its own, because it needs a capability that the rest doesn't.
  if (exe.fd < 0) return;
  if (exe.allowed) {
    add_exe_operation(plan, process, exe);
  } else {
    plan.op(plan::OpKind::as_owner, {exe.stack_end, exe_operation, 1}, "set the exe link");
  }
}

void add_signal_actions(PlanWriter& plan, const image::Process& process) {
  struct KernelAction {
    uint64_t handler, flags, restorer, mask;
  };
  for (const image::SignalAction& action : process.actions) {
    if (action.signal == SIGKILL || action.signal == SIGSTOP) continue;
    const KernelAction value{action.handler, action.flags, action.restorer, action.mask};
    plan.call(SYS_rt_sigaction,
              {static_cast<uint64_t>(action.signal), plan.value(value), 0, sizeof value.mask},
              fmt::format("rt_sigaction of signal {}", action.signal));
  }
}

void add_shared_settings(PlanWriter& plan, const image::Process& process,
                         const ProcessSettings& settings) {
  plan.try_call(SYS_umask, {process.umask}, "umask");
  if (settings.set_personality)
    plan.try_call(SYS_personality, {process.personality}, "personality");
  if (!settings.root.empty()) {
    plan.call(SYS_chroot, {plan.text(settings.root)}, "chroot to " + settings.root);
  }
}

void add_working_directory(PlanWriter& plan, const ProcessSettings& settings) {
  std::string path = settings.cwd;
  if (!settings.root.empty() && path.starts_with(settings.root)) {
    path.erase(0, settings.root.size());
    if (path.empty()) path.push_back('/');
  }
  plan.call(SYS_chdir, {plan.text(path)}, "chdir to " + path);
}

namespace {

void add_limit(PlanWriter& plan, size_t which, const rlimit64& limit) {
  plan.call(SYS_prlimit64, {0, which, plan.value(limit), 0},
            fmt::format("set {}", kLimitNames[which]));
}

}  // namespace

void add_limits(PlanWriter& plan, const ProcessSettings& settings) {
  for (size_t i = 0; i < settings.limits.size(); ++i) {
    rlimit64 limit{settings.limits[i].soft, settings.limits[i].hard};
    rlimit64 here{};
    if (i == RLIMIT_NOFILE && ::getrlimit64(RLIMIT_NOFILE, &here) == 0) {
      limit.rlim_max = std::max(limit.rlim_max, here.rlim_max);
      limit.rlim_cur = limit.rlim_max;
    }
    add_limit(plan, i, limit);
  }
}

void add_descriptor_limit(PlanWriter& plan, const ProcessSettings& settings) {
  const auto& [soft, hard] = settings.limits[RLIMIT_NOFILE];
  add_limit(plan, RLIMIT_NOFILE, {soft, hard});
}

void add_pending_signals(PlanWriter& plan, const image::Process& process) {
  for (const image::PendingSignal& signal : process.pending) {
    if (timer_of(process, signal) != nullptr) continue;
    int32_t number;
    std::memcpy(&number, signal.data(), sizeof number);
    const uint64_t index =
        plan.call(SYS_rt_sigqueueinfo, {0, static_cast<uint64_t>(number), plan.value(signal)},
                  fmt::format("queue signal {}", number));
    plan.at(index).own_pid = 1u << 0;
  }
}

void add_dumpable(PlanWriter& plan, const image::Process& process) {
  plan.call(SYS_prctl, {PR_SET_DUMPABLE, process.dumpable ? 1u : 0u, 0, 0, 0}, "PR_SET_DUMPABLE");
}

void add_timers(PlanWriter& plan, const image::Process& process) {
  constexpr int64_t kMicro = 1'000'000;
  for (size_t i = 0; i < process.timers.size(); ++i) {
    image::IntervalTimer timer = process.timers[i];
    // A periodic timer whose signal is pending stands still until that is taken (kernel/signal.c:
    // dequeue_signal), which can't be set: it goes on one period from now.
    if (timer.value_us == 0) timer.value_us = timer.interval_us;
    if (timer.value_us == 0) continue;
    itimerval value{};
    value.it_value = {timer.value_us / kMicro, timer.value_us % kMicro};
    value.it_interval = {timer.interval_us / kMicro, timer.interval_us % kMicro};
    plan.call(SYS_setitimer, {i, plan.value(value), 0}, "setitimer");
  }
}

// --- vDSO ---

namespace {

void move_special(PlanWriter& plan, const KernelVdso& kernel, uint64_t parked, uint64_t vdso) {
  const int64_t first = kernel.layout.front().from_vdso;
  for (const SpecialMapping& special : kernel.layout) {
    const uint64_t from = parked + static_cast<uint64_t>(special.from_vdso - first);
    const uint64_t to = vdso + static_cast<uint64_t>(special.from_vdso);
    plan.call(SYS_mremap, {from, special.size, special.size, MREMAP_MAYMOVE | MREMAP_FIXED, to},
              fmt::format("move {} to {:#x}", special.name, to), static_cast<int64_t>(to));
  }
}

}  // namespace

uint64_t add_vdso(PlanWriter& plan, const VdsoPlan& input, std::span<const std::byte> carried) {
  const KernelVdso& kernel = input.kernel;
  const auto there =
      std::find_if(input.process.mappings.begin(), input.process.mappings.end(),
                   [](const auto& mapping) { return mapping.kind == image::Mapping::Kind::vdso; });
  const bool has_vdso = there != input.process.mappings.end();
  const bool same = has_vdso && special_layout(input.process.mappings) == kernel.layout &&
                    (carried.empty() || same_vdso(carried, kernel.code));
  if (same) {
    plan.call(SYS_munmap, {there->range.start, there->range.size()}, "munmap of the carried vDSO");
    move_special(plan, kernel, input.parked, there->range.start);
    return there->range.start;
  }
  if (has_vdso && carried.empty()) {
    throw Refusal(Failure::destination_refused,
                  "the image doesn't carry its vDSO, and this kernel's is another");
  }
  const uint64_t vdso =
      input.place_to_stay + static_cast<uint64_t>(-kernel.layout.front().from_vdso);
  move_special(plan, kernel, input.parked, vdso);
  if (!has_vdso) return vdso;
  for (const CodePatch& patch : redirect_vdso(carried, kernel.code, vdso)) {
    plan.op(plan::OpKind::copy,
            {there->range.start + patch.offset, plan.data(patch.bytes), patch.bytes.size()},
            "redirect a function of the vDSO");
  }
  plan.call(SYS_mprotect, {there->range.start, there->range.size(), PROT_READ | PROT_EXEC},
            "mprotect of the old vDSO");
  return vdso;
}

void add_exit_code(PlanWriter& plan, const KernelVdso& kernel, uint64_t vdso, uint64_t offset) {
  const Bytes code = exit_code();
  // All of the mapping each time, so that it isn't split in two.
  plan.call(SYS_mprotect, {vdso, kernel.code.size(), PROT_READ | PROT_WRITE},
            "mprotect of the vDSO");
  plan.op(plan::OpKind::copy, {vdso + offset, plan.data(code), code.size()}, "write the exit code");
  plan.call(SYS_mprotect, {vdso, kernel.code.size(), PROT_READ | PROT_EXEC},
            "mprotect of the vDSO");
}

}  // namespace rfork::loader
