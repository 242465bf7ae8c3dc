#include "loader/thread_plan.h"

#include <asm/prctl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "loader/posix_timers.h"

#ifndef SYS_rseq
#define SYS_rseq 334
#endif

namespace rfork::loader {

using image::Thread;
using plan::OpKind;

namespace {

constexpr uint64_t kArchReqXcompPerm = 0x1023;
constexpr uint64_t kAmxTileData = 18;

void add_alt_stack(PlanWriter& plan, const Thread& thread) {
  if ((thread.alt_stack.flags & SS_DISABLE) != 0) return;
  stack_t stack{};
  stack.ss_sp = reinterpret_cast<void*>(thread.alt_stack.address);
  stack.ss_flags = thread.alt_stack.flags & ~SS_ONSTACK;
  stack.ss_size = thread.alt_stack.size;
  plan.call(SYS_sigaltstack, {plan.value(stack), 0},
            fmt::format("sigaltstack of thread {} ({} bytes)", thread.tid, thread.alt_stack.size));
}

void add_capability_sets(PlanWriter& plan, uint64_t effective, uint64_t permitted,
                         uint64_t inheritable) {
  struct {
    __user_cap_header_struct header;
    __user_cap_data_struct data[2];
  } sets{};
  sets.header.version = _LINUX_CAPABILITY_VERSION_3;
  for (int half = 0; half < 2; ++half) {
    sets.data[half].effective = static_cast<uint32_t>(effective >> (32 * half));
    sets.data[half].permitted = static_cast<uint32_t>(permitted >> (32 * half));
    sets.data[half].inheritable = static_cast<uint32_t>(inheritable >> (32 * half));
  }
  const uint64_t at = plan.value(sets);
  plan.call(SYS_capset, {at, at + offsetof(decltype(sets), data)}, "capset");
}

void drop_bounding(PlanWriter& plan, uint64_t keep) {
  for (uint64_t capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    if ((keep >> capability & 1) != 0) continue;
    plan.try_call(SYS_prctl, {PR_CAPBSET_DROP, capability, 0, 0, 0},
                  "drop a capability from the bounding set");
  }
}

// Of securebits, the one that needs no privilege.
constexpr uint32_t kKeepCaps = SECBIT_KEEP_CAPS;

/// The flags that are locked would be in the way of all else, so late.
void add_securebits(PlanWriter& plan, const image::Credentials& there, bool lenient) {
  if ((there.securebits & ~kKeepCaps) == 0) {
    plan.try_call(SYS_prctl, {PR_SET_KEEPCAPS, there.securebits != 0 ? 1u : 0u, 0, 0, 0},
                  "PR_SET_KEEPCAPS");
  } else if (lenient) {
    plan.try_call(SYS_prctl, {PR_SET_SECUREBITS, there.securebits, 0, 0, 0}, "PR_SET_SECUREBITS");
  } else {
    plan.call(SYS_prctl, {PR_SET_SECUREBITS, there.securebits, 0, 0, 0}, "PR_SET_SECUREBITS");
  }
}

void add_user(PlanWriter& plan, const TargetUser& user, const image::Credentials& there,
              bool lenient) {
  const uint64_t permitted =
      user.image_capabilities ? there.cap_permitted & own_permitted_capabilities() : 0;
  if (user.image_capabilities) drop_bounding(plan, there.cap_bounding);
  // Capabilities are set below, whatever a change of ids would do to them.
  if (user.effective != 0 && user.image_capabilities)
    plan.call(SYS_prctl, {PR_SET_KEEPCAPS, 1, 0, 0, 0}, "keep capabilities");
  plan.call(SYS_setgroups, {user.groups.size(), plan.data(std::as_bytes(std::span(user.groups)))},
            "setgroups");
  plan.call(SYS_setresgid, {user.real_group, user.effective_group, user.saved_group},
            fmt::format("setresgid to {}", user.effective_group));
  plan.call(SYS_setresuid, {user.real, user.effective, user.saved},
            fmt::format("setresuid to {}", user.effective));
  if (!user.image_capabilities) return;
  plan.try_call(SYS_setfsgid, {there.fsgid}, "setfsgid");
  plan.try_call(SYS_setfsuid, {there.fsuid}, "setfsuid");
  const uint64_t all = own_permitted_capabilities();
  add_capability_sets(plan, all, all, there.cap_inheritable & permitted);
  for (uint64_t capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    if ((there.cap_ambient & permitted & there.cap_inheritable) >> capability & 1) {
      plan.try_call(SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0},
                    "raise an ambient capability");
    }
  }
  add_securebits(plan, there, lenient);
  add_capability_sets(plan, there.cap_effective & permitted, permitted,
                      there.cap_inheritable & permitted);
}

void add_lists(PlanWriter& plan, const ThreadPlanInput& input, const Thread& thread) {
  const uint64_t old_tid = static_cast<uint64_t>(thread.tid);
  if (!input.keep_ids && thread.clear_child_tid != 0) {
    plan.op(OpKind::replace_tid, {thread.clear_child_tid, old_tid},
            fmt::format("correct the tid at {:#x}", thread.clear_child_tid));
  }
  if (!input.keep_ids && thread.robust_list != 0) {
    plan.op(OpKind::robust_list, {thread.robust_list, old_tid},
            fmt::format("correct the robust list at {:#x}", thread.robust_list));
  }
  const uint64_t index =
      plan.call(SYS_set_tid_address, {thread.clear_child_tid}, "set_tid_address");
  plan.at(index).rule = plan::Rule::non_negative;
  if (thread.robust_list != 0) {
    plan.call(SYS_set_robust_list, {thread.robust_list, thread.robust_list_size},
              "set_robust_list");
  }
  if (thread.rseq.address != 0) {
    plan.call(SYS_rseq, {thread.rseq.address, thread.rseq.size, 0, thread.rseq.signature},
              fmt::format("register rseq of thread {} at {:#x}", thread.tid, thread.rseq.address));
  }
}

}  // namespace

void add_thread_state(PlanWriter& plan, const ThreadPlanInput& input, size_t index) {
  const Thread& thread = input.process.threads[index];
  const image::ThreadBases bases = image::thread_bases(thread);
  if (image::holds_amx_tiles(input.frames.threads[index].area)) {
    plan.try_call(SYS_arch_prctl, {kArchReqXcompPerm, kAmxTileData}, "permission for AMX");
    plan.op(OpKind::use_amx, {}, "first use of AMX");
  }
  plan.call(SYS_arch_prctl, {ARCH_SET_FS, bases.fs_base},
            fmt::format("set the FS base of thread {}", thread.tid));
  plan.call(SYS_arch_prctl, {ARCH_SET_GS, bases.gs_base},
            fmt::format("set the GS base of thread {}", thread.tid));
  add_lists(plan, input, thread);
  plan.call(SYS_prctl, {PR_SET_NAME, plan.text(thread.name.substr(0, 15)), 0, 0, 0},
            "name a thread");
  add_scheduling(plan, input.attributes, input.process, index);
  input.policies.add_of_thread(plan, index);
  add_alt_stack(plan, thread);
  plan.op(OpKind::note_tid, {input.tids + index * sizeof(int32_t)}, "note the tid");
}

/// A copy of a queued signal, to the caller itself. Any si_code is allowed there (kernel/signal.c:
/// do_rt_tgsigqueueinfo).
void add_pending(PlanWriter& plan, const image::Process& process, const Thread& thread) {
  for (const image::PendingSignal& signal : thread.pending) {
    if (timer_of(process, signal) != nullptr) continue;
    int32_t number;
    std::memcpy(&number, signal.data(), sizeof number);
    const uint64_t index =
        plan.call(SYS_rt_tgsigqueueinfo, {0, 0, static_cast<uint64_t>(number), plan.value(signal)},
                  fmt::format("queue signal {} for thread {}", number, thread.tid));
    plan.at(index).own_pid = 1u << 0;
    plan.at(index).own_tid = 1u << 1;
  }
}

void add_credentials(PlanWriter& plan, const ThreadPlanInput& input, size_t index) {
  const Thread& thread = input.process.threads[index];
  const image::Credentials& there =
      thread.credentials ? *thread.credentials : input.process.credentials;
  if (input.user) {
    const bool own = input.user->image_capabilities && thread.credentials;
    const TargetUser user = own ? user_of_image(*thread.credentials) : *input.user;
    add_user(plan, user, own ? there : input.process.credentials, input.attributes.lenient);
  } else if (there.securebits != 0) {
    add_securebits(plan, there, input.attributes.lenient);
  }
  if (input.drop_capabilities) {
    plan.try_call(SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0},
                  "clear ambient capabilities");
    // Only root would get capabilities back by an exec.
    drop_bounding(plan, ::geteuid() == 0 ? 0 : input.process.credentials.cap_bounding);
    add_capability_sets(plan, 0, 0, 0);
  }
  if (thread.no_new_privs.value_or(input.process.no_new_privs))
    plan.call(SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0}, "no_new_privs");
  add_thread_settings(plan, input.attributes, thread);
}

void add_leave(PlanWriter& plan, const ThreadPlanInput& input, size_t index) {
  // A signal that one thread sends another, which waits for it in pause(2), would come too early
  // if that one were not in the kernel again: those that wait go first.
  const auto& threads = input.process.threads;
  const auto running = static_cast<uint64_t>(
      std::count_if(threads.begin(), threads.end(), [](const Thread& one) { return !one.waits; }));
  if (!threads[index].waits && running < threads.size()) {
    plan.op(OpKind::await_left, {running}, "let the threads that wait go first");
  }
  const ThreadFrame& frame = input.frames.threads[index];
  const uint64_t code = frame.exit_code != 0 ? frame.exit_code : input.exit_code;
  plan.op(OpKind::leave, {frame.frame.stack_pointer, code}, "leave");
}

std::vector<OpRange> add_thread_bodies(PlanWriter& plan, const ThreadPlanInput& input) {
  std::vector<OpRange> bodies;
  for (size_t i = 1; i < input.process.threads.size(); ++i) {
    const uint64_t first = plan.next();
    add_thread_state(plan, input, i);
    add_pending(plan, input.process, input.process.threads[i]);
    add_credentials(plan, input, i);
    input.add_own_files(input.process.threads[i].tid);
    plan.op(OpKind::arrive, {}, "arrive");
    add_leave(plan, input, i);
    bodies.push_back({first, plan.next() - first});
  }
  return bodies;
}

void add_thread_starts(PlanWriter& plan, const ThreadPlanInput& input,
                       const std::vector<OpRange>& bodies) {
  for (size_t i = 0; i < bodies.size(); ++i) {
    const int32_t tid = input.process.threads[i + 1].tid;
    const uint64_t stack_end = input.hole.stacks + (i + 2) * plan::kStackSize;
    plan.op(OpKind::start_thread,
            {stack_end, bodies[i].first, bodies[i].count, input.keep_ids ? plan.value(tid) : 0},
            fmt::format("clone3 of thread {}", tid));
  }
}

}  // namespace rfork::loader
