#include "tracer/thread_state.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/rseq.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "tracer/memory_policy.h"
#include "tracer/proc_text.h"
#include "tracer/process_state.h"
#include "tracer/ptrace.h"
#include "tracer/thread_attributes.h"

namespace rfork::tracer {

namespace {

template <typename T>
Bytes bytes_of(const T& value) {
  Bytes bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

uint64_t hex(const std::string& text) {
  return std::stoull(text, nullptr, 16);
}

std::string read_name(pid_t pid, pid_t tid) {
  std::string name = read_file(fmt::format("/proc/{}/task/{}/comm", pid, tid));
  if (!name.empty() && name.back() == '\n') name.pop_back();
  return name;
}

void read_robust_list(pid_t tid, image::Thread& thread) {
  void* head = nullptr;
  size_t size = 0;
  if (::syscall(SYS_get_robust_list, tid, &head, &size) != 0) {
    throw_errno("get_robust_list", fmt::format("tid {}", tid));
  }
  thread.robust_list = reinterpret_cast<uint64_t>(head);
  thread.robust_list_size = size;
}

// What only the thread itself can ask.
void ask_thread(CapturedThread& captured, const StoppedThread& stopped, const ProcessMemory& memory,
                const InjectionSite& site, const user_regs_struct& going_on) {
  image::Thread& thread = captured.thread;
  RemoteSyscalls calls(stopped, memory, site, going_on);
  calls.prepare();
  const std::string subject = fmt::format("in tid {}", stopped.tid);
  if (const long result = calls.call(SYS_sigaltstack, {0, calls.scratch()}); result != 0) {
    throw Error("sigaltstack", static_cast<int>(-result), subject);
  }
  const auto stack = memory.read_value<stack_t>(calls.scratch());
  thread.alt_stack = {reinterpret_cast<uint64_t>(stack.ss_sp), stack.ss_flags, stack.ss_size};
  // The call was made with rsp on the thread's own stack or on the alternate one, as the thread
  // was.
  if (const long result = calls.call(SYS_prctl, {PR_GET_TID_ADDRESS, calls.scratch()});
      result == -EINVAL) {
    throw Refusal(
        Failure::cannot_carry,
        "this kernel doesn't tell where a thread's id is kept (no CONFIG_CHECKPOINT_RESTORE)",
        "boot a kernel that has it, as those of the distributions do");
  } else if (result != 0) {
    throw Error("prctl(PR_GET_TID_ADDRESS)", static_cast<int>(-result), subject);
  }
  thread.clear_child_tid = memory.read_value<uint64_t>(calls.scratch());
  ask_settings(calls, memory, thread);
  // The leader's a fork has too, which can be asked when the process goes on.
  if (stopped.tid != memory.pid()) thread.memory_policy = ask_thread_policy(calls, memory);
  // They mean nothing to who has no capability, and each call lengthens the pause.
  const bool matter = stopped.tid == memory.pid() || captured.credentials.cap_permitted != 0;
  if (matter) captured.credentials.securebits = ask_securebits(calls);
}

}  // namespace

void abort_rseq_section(StoppedThread& thread, const ProcessMemory& memory) {
  const image::Rseq rseq = rseq_configuration(thread.tid);
  if (rseq.address == 0) return;
  uint64_t section_address = 0;
  const uint64_t field = rseq.address + offsetof(struct rseq, rseq_cs);
  if (!memory.try_read_value(field, section_address) || section_address == 0) return;
  struct rseq_cs section {};
  if (!memory.try_read_value(section_address, section)) return;
  if (thread.registers.rip - section.start_ip >= section.post_commit_offset) return;
  thread.registers.rip = section.abort_ip;
  set_registers(thread.tid, thread.registers);
  constexpr uint64_t kNone = 0;
  memory.try_write(field, std::as_bytes(std::span(&kNone, 1)));
}

CapturedThread capture_thread(pid_t pid, StoppedThread& stopped, const ProcessMemory& memory,
                              const InjectionSite& site, bool passes_filters) {
  CapturedThread result;
  image::Thread& thread = result.thread;
  const auto status =
      parse_status(read_file(fmt::format("/proc/{}/task/{}/status", pid, stopped.tid)));
  const std::string& ids = status.at("NSpid");
  thread.tid = std::stoi(ids.substr(ids.find_last_of('\t') + 1));
  thread.name = read_name(pid, stopped.tid);
  result.credentials = read_credentials(status);
  thread.no_new_privs = status.at("NoNewPrivs") == "1";
  if (const auto mode = status.find("Seccomp"); mode != status.end())
    thread.seccomp_mode = std::stoi(mode->second);
  if (thread.seccomp_mode != 0 && !passes_filters) {
    throw Refusal(Failure::cannot_carry,
                  fmt::format("thread {} has just come under seccomp", stopped.tid), "try again");
  }
  thread.signal_mask = signal_mask(stopped.tid);

  const uint64_t pending = hex(status.at("SigPnd")) | hex(status.at("ShdPnd"));
  const bool signal_waits = (pending & ~thread.signal_mask) != 0;
  const bool measured = stopped.sleep && slept_until_stopped(pid, stopped.tid, *stopped.sleep);
  const int64_t slept_ns = measured ? stopped.sleep->slept_ns : 0;
  GoingOn going_on = after_interruption(stopped, memory, slept_ns, signal_waits);
  // A filter may not know restart_syscall(2), which the kernel would make there.
  const bool restarts = stopped.registers.orig_rax == SYS_restart_syscall;
  if (thread.seccomp_mode != 0 && going_on.again && !restarts) going_on.at_origin_too = true;
  if (going_on.at_origin_too) {
    if (going_on.patch) memory.try_write(going_on.patch->address, going_on.patch->bytes);
    set_registers(stopped.tid, going_on.registers);
    stopped.registers = going_on.registers;
  }
  thread.registers = bytes_of(going_on.registers);
  thread.waits = going_on.again;
  result.patch = going_on.patch;

  thread.floating_point = regset(stopped.tid, NT_PRFPREG, "NT_PRFPREG");
  thread.xstate = regset(stopped.tid, NT_X86_XSTATE, "NT_X86_XSTATE");
  thread.rseq = rseq_configuration(stopped.tid);
  read_robust_list(stopped.tid, thread);
  read_attributes(pid, stopped.tid, status, thread);
  ask_thread(result, stopped, memory, site, going_on.registers);
  return result;
}

}  // namespace rfork::tracer
