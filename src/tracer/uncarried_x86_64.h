// What the threads of a process may have of this architecture's that can't be carried. The kernel
// tells of it only when they are stopped, or when the process asks itself.
#pragma once

#include <sys/types.h>

#include <vector>

#include "tracer/remote_syscalls.h"
#include "tracer/stopped_process.h"

namespace rfork::tracer {

/// Hardware breakpoints and watchpoints that ptrace(2) has set, and that outlive their tracer.
/// Throws Refusal(cannot_carry) that names every thread with such: only a tracer can set them
/// again, and the restored process has none.
void refuse_debug_registers(const std::vector<StoppedThread>& threads);

/// Throws Refusal(cannot_carry) that names every thread whose system calls the program answers
/// itself (PR_SET_SYSCALL_USER_DISPATCH): those that are injected too, with a SIGSYS that would
/// kill it. Before Linux 6.4 nobody can ask.
void refuse_syscall_dispatch(const std::vector<StoppedThread>& threads);

/// Throws Refusal(cannot_carry) for a local descriptor table (modify_ldt(2)), and for CPUID that
/// faults (arch_prctl(2)), asked through the original or its forked copy.
void refuse_own_segments(RemoteSyscalls& calls, pid_t pid);

}  // namespace rfork::tracer
