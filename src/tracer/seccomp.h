// Seccomp filters: read by ptrace, which the kernel allows to who has CAP_SYS_ADMIN and no filter
// itself.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/error.h"
#include "image/model.h"

namespace rfork::tracer {

/// Whether this process may read filters, and let injected calls pass them (ptrace(2):
/// PTRACE_O_SUSPEND_SECCOMP).
bool may_read_filters();
/// Adds a reason when a thread of the running `pid` is restricted in a way that can't be carried
/// from here.
void find_seccomp_obstacles(pid_t pid, std::vector<Reason>& obstacles);
/// The option of ptrace(2) with which threads of `pid` have to be seized: 0 when none is
/// restricted, or it may not be had.
unsigned seccomp_option(pid_t pid);

/// Reads mode and filters of the stopped `tid`; filters that other threads have too are not added
/// to `process` again. Throws Refusal(cannot_carry) for one that asks another process
/// (SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE).
void read_seccomp(pid_t tid, int mode, image::Process& process, image::Thread& thread);

}  // namespace rfork::tracer
