#include "tracer/uncarried_x86_64.h"

#include <asm/prctl.h>
#include <fmt/format.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include "base/error.h"
#include "tracer/ptrace.h"

namespace rfork::tracer {

namespace {

// <linux/ptrace.h>, Linux 6.4
constexpr int kGetSyscallDispatch = 0x4211;
struct SyscallDispatch {
  uint64_t mode;  ///< 0: off
  uint64_t selector, offset, length;
};

}  // namespace

void refuse_debug_registers(const std::vector<StoppedThread>& threads) {
  constexpr uint64_t kEnabled = 0xff;  // of DR7: local and global, of each of four
  std::vector<Reason> reasons;
  for (const StoppedThread& thread : threads) {
    const uint64_t control = peek_user(thread.tid, offsetof(user, u_debugreg[7]));
    if ((control & kEnabled) == 0) continue;
    reasons.push_back(
        {fmt::format("thread {} has hardware breakpoints in its debug registers (DR7 is "
                     "{:#x}), which can't be carried",
                     thread.tid, control),
         "--drop-attributes goes on without them"});
  }
  if (!reasons.empty()) throw Refusal(Failure::cannot_carry, std::move(reasons));
}

void refuse_syscall_dispatch(const std::vector<StoppedThread>& threads) {
  std::vector<Reason> reasons;
  for (const StoppedThread& thread : threads) {
    SyscallDispatch dispatch{};
    if (::syscall(SYS_ptrace, kGetSyscallDispatch, thread.tid, sizeof dispatch, &dispatch) != 0 ||
        dispatch.mode == 0) {
      continue;
    }
    reasons.push_back({fmt::format("thread {} answers system calls itself "
                                   "(PR_SET_SYSCALL_USER_DISPATCH), which can't be carried",
                                   thread.tid),
                       {}});
  }
  if (!reasons.empty()) throw Refusal(Failure::cannot_carry, std::move(reasons));
}

void refuse_own_segments(RemoteSyscalls& calls, pid_t pid) {
  constexpr uint64_t kRead = 0;  // of modify_ldt(2)
  calls.prepare();
  std::vector<Reason> reasons;
  if (calls.call(SYS_modify_ldt, {kRead, calls.scratch(), RemoteSyscalls::kScratchSize}) > 0) {
    reasons.push_back({fmt::format("process {} has segments of its own in a local descriptor table "
                                   "(modify_ldt(2)), which can't be carried",
                                   pid),
                       "--drop-attributes goes on without them"});
  }
  if (calls.call(SYS_arch_prctl, {ARCH_GET_CPUID}) == 0) {
    reasons.push_back({fmt::format("process {} gets a SIGSEGV for the instruction CPUID "
                                   "(ARCH_SET_CPUID), which can't be carried",
                                   pid),
                       "--drop-attributes goes on without that"});
  }
  if (!reasons.empty()) throw Refusal(Failure::cannot_carry, std::move(reasons));
}

}  // namespace rfork::tracer
