#include "loader/attributes.h"

#include <fmt/format.h>
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "image/host.h"
#include "image/privileges.h"

namespace rfork::loader {

using image::Thread;

namespace {

// Later than the headers of Debian 12: Linux 6.3, 6.4.
constexpr uint64_t kSetMdwe = 65;
constexpr uint64_t kSetMemoryMerge = 67;

using CpuMask = std::vector<uint64_t>;

CpuMask mask_of(const std::vector<uint32_t>& cpus) {
  CpuMask mask(cpus.empty() ? 1 : std::ranges::max(cpus) / 64 + 1);
  for (const uint32_t cpu : cpus) mask[cpu / 64] |= uint64_t{1} << cpu % 64;
  return mask;
}

std::vector<uint32_t> own_cpus() {
  CpuMask mask(128);
  const long bytes = ::syscall(SYS_sched_getaffinity, 0, mask.size() * sizeof mask[0], mask.data());
  std::vector<uint32_t> cpus;
  for (uint32_t cpu = 0; static_cast<long>(cpu) < bytes * 8; ++cpu) {
    if ((mask[cpu / 64] >> (cpu % 64) & 1) != 0) cpus.push_back(cpu);
  }
  return cpus;
}

bool use_cpus(const std::vector<uint32_t>& cpus) {
  const CpuMask mask = mask_of(cpus);
  return ::syscall(SYS_sched_setaffinity, 0, mask.size() * sizeof mask[0], mask.data()) == 0;
}

/// Those of `wanted` that the kernel grants here. Empty: none.
std::vector<uint32_t> granted_cpus(const std::vector<uint32_t>& wanted) {
  const std::vector<uint32_t> before = own_cpus();
  std::vector<uint32_t> granted;
  if (use_cpus(wanted)) granted = own_cpus();
  use_cpus(before);
  return granted;
}

void fit_cpus(const image::Process& process, Attributes& attributes, Findings& findings) {
  for (const Thread& thread : process.threads) {
    std::vector<uint32_t>& cpus = attributes.cpus.emplace_back();
    if (thread.cpus.empty()) continue;
    cpus = granted_cpus(thread.cpus);
    if (cpus == thread.cpus) continue;
    findings.warn(fmt::format(
        "thread {} was bound to CPU {}: here {}", thread.tid, fmt::join(thread.cpus, ","),
        cpus.empty() ? "it isn't bound" : fmt::format("to {}", fmt::join(cpus, ","))));
  }
}

/// Of a mitigation that a thread has asked for: whether the kernel would not grant it.
bool speculates_here(unsigned long which, int32_t wanted) {
  if (wanted != PR_SPEC_DISABLE && wanted != PR_SPEC_FORCE_DISABLE) return false;
  const int here = ::prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0);
  return here < 0 || (here & (PR_SPEC_PRCTL | PR_SPEC_ENABLE)) == PR_SPEC_ENABLE;
}

void warn_of_speculation(const image::Process& process, Findings& findings) {
  const auto lost = [](const Thread& thread) {
    return speculates_here(PR_SPEC_STORE_BYPASS, thread.settings.store_bypass) ||
           speculates_here(PR_SPEC_INDIRECT_BRANCH, thread.settings.indirect_branch);
  };
  if (std::ranges::any_of(process.threads, lost)) {
    findings.warn(
        "the process has switched off speculation (PR_SET_SPECULATION_CTRL), which can't be had "
        "here");
  }
}

void warn_of_missing(const image::Snapshot& snapshot, const image::Host& here, Findings& findings) {
  std::vector<std::string> needs;
  image::add_privileged_needs(snapshot.processes[0], needs);
  for (const std::string& need : needs) {
    if (image::fulfils(here.abilities, need)) continue;
    if (const auto reason = image::missing_privilege(need))
      findings.warn(reason->what + ": it goes on without");
  }
}

}  // namespace

Attributes fit_attributes(const image::Snapshot& snapshot, const image::Host& here,
                          const Options& options, bool parent_stays, Findings& findings) {
  const image::Process& process = snapshot.processes[0];
  Attributes attributes;
  attributes.lenient = options.drop_attributes || snapshot.drop_attributes;
  attributes.can_wake = image::fulfils(here.abilities, "wake_alarm");
  attributes.parent_stays = parent_stays;
  if (attributes.lenient) warn_of_missing(snapshot, here, findings);
  fit_cpus(process, attributes, findings);
  warn_of_speculation(process, findings);
  const auto has_signal = [](const Thread& thread) {
    return thread.settings.parent_death_signal != 0;
  };
  if (!parent_stays && std::ranges::any_of(process.threads, has_signal)) {
    findings.warn(
        "PR_SET_PDEATHSIG is left out: who makes a process of the background ends before it");
  }
  return attributes;
}

namespace {

/// A system call that must succeed unless `lenient`.
void set(PlanWriter& plan, bool lenient, long number, std::initializer_list<uint64_t> arguments,
         std::string words) {
  if (lenient) {
    plan.try_call(number, arguments, std::move(words));
  } else {
    plan.call(number, arguments, std::move(words));
  }
}

}  // namespace

void add_scheduling(PlanWriter& plan, const Attributes& attributes, const image::Process& process,
                    size_t index) {
  const Thread& thread = process.threads[index];
  if (!attributes.cpus[index].empty()) {
    const CpuMask mask = mask_of(attributes.cpus[index]);
    plan.call(SYS_sched_setaffinity,
              {0, mask.size() * sizeof mask[0], plan.data(std::as_bytes(std::span(mask)))},
              fmt::format("bind thread {} to its CPUs", thread.tid));
  }
  // Real-time threads have none, so before.
  if (thread.settings.timer_slack_ns != 0) {
    plan.try_call(SYS_prctl, {PR_SET_TIMERSLACK, thread.settings.timer_slack_ns, 0, 0, 0},
                  "PR_SET_TIMERSLACK");
  }
  const image::Scheduling& wanted = thread.scheduling;
  if (wanted.policy != SCHED_OTHER || wanted.flags != 0 || wanted.runtime_ns != 0 ||
      ::sched_getscheduler(0) != SCHED_OTHER) {
    const int nice = std::max(thread.nice, ::getpriority(PRIO_PROCESS, 0));
    const image::SchedulingAttributes value{
        sizeof value,       static_cast<uint32_t>(wanted.policy),
        wanted.flags,       nice,
        wanted.priority,    wanted.runtime_ns,
        wanted.deadline_ns, wanted.period_ns};
    set(plan, attributes.lenient, SYS_sched_setattr, {0, plan.value(value), 0},
        fmt::format("sched_setattr of thread {} (policy {})", thread.tid, wanted.policy));
  }
  // A value that only this process's own stands in the way of isn't worth a refusal.
  set(plan, attributes.lenient || thread.nice >= 0, SYS_setpriority,
      {PRIO_PROCESS, 0, static_cast<uint64_t>(int64_t{thread.nice})},
      fmt::format("setpriority of thread {} to {}", thread.tid, thread.nice));
  if (thread.io_priority != 0) {
    set(plan, attributes.lenient, SYS_ioprio_set,
        {image::kIoWhoProcess, 0, static_cast<uint64_t>(thread.io_priority)},
        fmt::format("ioprio_set of thread {}", thread.tid));
  }
}

void add_thread_settings(PlanWriter& plan, const Attributes& attributes, const Thread& thread) {
  const image::ThreadSettings& settings = thread.settings;
  if (settings.parent_death_signal != 0 && attributes.parent_stays) {
    plan.call(SYS_prctl,
              {PR_SET_PDEATHSIG, static_cast<uint64_t>(settings.parent_death_signal), 0, 0, 0},
              "PR_SET_PDEATHSIG");
  }
  if (settings.time_stamp_counter != 0) {
    plan.call(SYS_prctl, {PR_SET_TSC, static_cast<uint64_t>(settings.time_stamp_counter), 0, 0, 0},
              "PR_SET_TSC");
  }
  if (settings.memory_failure != 0) {
    const auto mode = static_cast<uint64_t>(settings.memory_failure - 1);
    plan.call(SYS_prctl, {PR_MCE_KILL, PR_MCE_KILL_SET, mode, 0, 0}, "PR_MCE_KILL");
  }
  for (const auto& [which, value] :
       {std::pair<uint64_t, int32_t>{PR_SPEC_STORE_BYPASS, settings.store_bypass},
        {PR_SPEC_INDIRECT_BRANCH, settings.indirect_branch}}) {
    if (value == 0) continue;
    plan.try_call(SYS_prctl, {PR_SET_SPECULATION_CTRL, which, static_cast<uint64_t>(value), 0, 0},
                  "PR_SET_SPECULATION_CTRL");
  }
}

void add_process_settings(PlanWriter& plan, const Attributes& attributes,
                          const image::ProcessSettings& settings) {
  const auto prctl = [&](uint64_t option, uint64_t value, uint64_t flags, const char* words) {
    if (value == 0) return;
    set(plan, attributes.lenient, SYS_prctl, {option, value, flags, 0, 0}, words);
  };
  prctl(PR_SET_CHILD_SUBREAPER, settings.child_subreaper ? 1 : 0, 0, "PR_SET_CHILD_SUBREAPER");
  // What is read is 1 and the flags together.
  const uint64_t no_huge_pages = settings.no_huge_pages & 1;
  prctl(PR_SET_THP_DISABLE, no_huge_pages, settings.no_huge_pages & ~1u, "PR_SET_THP_DISABLE");
  prctl(kSetMemoryMerge, settings.merge_memory ? 1 : 0, 0, "PR_SET_MEMORY_MERGE");
  for (uint32_t bit = 1; bit != 0; bit <<= 1) {
    if ((settings.membarrier & bit) == 0) continue;
    set(plan, attributes.lenient, SYS_membarrier, {bit, 0, 0},
        fmt::format("membarrier({:#x})", bit));
  }
  prctl(kSetMdwe, settings.memory_deny_write_execute, 0, "PR_SET_MDWE");
}

}  // namespace rfork::loader
