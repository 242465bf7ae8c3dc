#include "tracer/forked_copy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <csignal>

#include "base/error.h"
#include "base/io.h"
#include "tracer/proc_text.h"
#include "tracer/ptrace.h"

namespace rfork::tracer {

namespace {

constexpr unsigned kFollow = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK;

// Ends a tracee of ours for good.
void kill_and_reap(pid_t pid) noexcept {
  ::kill(pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid, &status, __WALL) == pid && !WIFEXITED(status) && !WIFSIGNALED(status)) {
  }
}

// Orphans would become this process's children.
bool adopts_orphans(RemoteSyscalls& calls, const ProcessMemory& memory, pid_t pid) {
  calls.prepare();
  if (calls.call(SYS_prctl, {PR_GET_CHILD_SUBREAPER, calls.scratch()}) != 0) return true;
  if (memory.read_value<int>(calls.scratch()) != 0) return true;
  const auto status = parse_status(read_file(fmt::format("/proc/{}/status", pid)));
  const auto inner = status.find("NSpid");
  return inner != status.end() && (inner->second == "1" || inner->second.ends_with("\t1"));
}

// Lets the helper fork the copy and end. 0 when it could not fork.
pid_t fork_through(pid_t helper, unsigned options, const InjectionSite& site) {
  user_regs_struct regs = registers(helper);
  regs.rip = site.call_then_exit();
  regs.orig_rax = ~0ull;
  regs.rax = SYS_clone;
  regs.rdi = CLONE_FILES | CLONE_FS | SIGCHLD;
  regs.rsi = regs.rdx = regs.r10 = regs.r8 = 0;
  set_registers(helper, regs);
  pid_t copy = 0;
  for (int syscall_stops = 0; syscall_stops < 2;) {
    resume(helper, PTRACE_SYSCALL);
    const WaitStatus status = wait_for(helper);
    if (status.gone()) break;
    if (status.kind() == WaitStatus::Kind::syscall_stop) ++syscall_stops;
    if (status.kind() == WaitStatus::Kind::event_stop)
      copy = static_cast<pid_t>(event_message(helper));
  }
  if (copy != 0) {
    while (wait_for(copy).kind() != WaitStatus::Kind::interrupt_stop) resume(copy, PTRACE_CONT);
    set_options(copy, options | PTRACE_O_EXITKILL);
  }
  resume(helper, PTRACE_CONT);
  while (!wait_for(helper).gone()) resume(helper, PTRACE_CONT);
  return copy;
}

}  // namespace

ForkedCopy::ForkedCopy(pid_t pid) : pid_(pid), memory_(pid) {}

ForkedCopy::~ForkedCopy() {
  kill_and_reap(pid_);
}

std::unique_ptr<ForkedCopy> ForkedCopy::make(RemoteSyscalls& calls, pid_t pid, unsigned options,
                                             const InjectionSite& site) {
  const ProcessMemory memory(pid);
  if (adopts_orphans(calls, memory, pid)) return nullptr;
  set_options(calls.tid(), options | kFollow);
  pid_t helper = 0;
  const long inner_helper = calls.call_clone({CLONE_VM | CLONE_FILES | CLONE_FS}, helper);
  set_options(calls.tid(), options);
  if (inner_helper <= 0 || helper == 0) return nullptr;
  pid_t copy = 0;
  try {
    while (wait_for(helper).kind() != WaitStatus::Kind::interrupt_stop) resume(helper, PTRACE_CONT);
    set_options(helper, options | kFollow | PTRACE_O_EXITKILL);
    copy = fork_through(helper, options, site);
  } catch (...) {
    kill_and_reap(helper);
    throw;
  }
  calls.call(SYS_wait4, {static_cast<uint64_t>(inner_helper), 0, __WALL, 0});
  if (copy == 0) return nullptr;
  std::unique_ptr<ForkedCopy> result(new ForkedCopy(copy));
  calls.restore_stack(result->memory());
  return result;
}

}  // namespace rfork::tracer
