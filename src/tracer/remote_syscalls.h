// System calls made by a stopped thread on our behalf, so that it finds its own way back if we die
// in the middle.
//
// The instruction that enters the kernel is planted in the zero padding behind the vDSO's ELF
// image, in code that nothing else uses; behind it stands an rt_sigreturn. The thread's true state
// lies in a signal frame below the red zone of its stack, where a signal handler's would. While we
// live, we stop the thread after each call, and the destructor puts registers, mask and the bytes
// under the frame back. If we are killed, the thread runs on into rt_sigreturn and is where it was.
//
// PTRACE_SYSCALL, not PTRACE_SINGLESTEP: a single step that outlives its tracer is a SIGTRAP to the
// program.
//
// Rejected: using a `syscall` instruction of the program (what stands behind it is not ours),
// overwriting code at rip (other threads may run it, and it stays overwritten if we die).
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/io.h"
#include "base/range.h"
#include "image/model.h"
#include "tracer/process_memory.h"
#include "tracer/stopped_process.h"

namespace rfork::tracer {

/// The planted code. Addresses are the tracee's.
class InjectionSite {
 public:
  /// Plants the code at the end of the `vdso` mapping, through the stopped thread `tid`. `host` is
  /// this host, for the layout of its XSAVE area; it outlives this. `read_only` are the mappings
  /// that the process can't write to. Throws Refusal(cannot_trace) when there is no room for it.
  InjectionSite(pid_t tid, const ProcessMemory& memory, const Range& vdso, const image::Host& host,
                std::vector<Range> read_only);
  /// Puts back what was there, through the stopped thread `tid`. The bytes are dead code until
  /// then.
  void remove(pid_t tid) noexcept;

  /// Puts back what was there in a copy of the process.
  void remove_from(const ProcessMemory& memory) const;

  uint64_t call_then_return() const { return address_; }  ///< syscall; rt_sigreturn
  uint64_t fork_then_return()
      const;  ///< syscall; in the child exit_group, in the parent rt_sigreturn
  uint64_t call_then_exit() const;  ///< syscall; exit
  static constexpr size_t kSize = 64;
  const image::Host& host() const { return host_; }
  /// Whether the process itself may be able to write there: we are, to mappings that it isn't.
  bool may_write(const Range& range) const;

 private:
  const image::Host& host_;
  std::vector<Range> read_only_;
  uint64_t address_ = 0;
  std::array<uint64_t, kSize / 8> before_{};
};

class RemoteSyscalls {
 public:
  static constexpr size_t kScratchSize = 1024;

  /// `thread` is stopped; `going_on` are the registers with which it can go on by itself (an
  /// interrupted system call wound back), used only if we die. Nothing is touched before the first
  /// call.
  RemoteSyscalls(const StoppedThread& thread, const ProcessMemory& memory,
                 const InjectionSite& site, const user_regs_struct& going_on);
  /// Puts everything back.
  ~RemoteSyscalls();
  RemoteSyscalls(const RemoteSyscalls&) = delete;
  RemoteSyscalls& operator=(const RemoteSyscalls&) = delete;

  pid_t tid() const { return thread_.tid; }
  /// The raw result: -errno on failure. Throws ProcessGone; Refusal(cannot_carry) where the
  /// thread's stack has no room for a signal frame, or the call gives a signal.
  long call(long number, const std::array<uint64_t, 6>& arguments = {});
  /// A call of clone(2) kind whose child must not run the parent's way back. The child is traced by
  /// us, and left in its first stop; its tid as we see it is given in `child`.
  long call_clone(const std::array<uint64_t, 6>& arguments, pid_t& child);

  /// kScratchSize bytes that calls may use for results. Valid from the first call, or prepare(),
  /// on.
  uint64_t scratch() const { return scratch_; }
  void prepare();
  /// The dead bytes of the stack that are in use meanwhile, as they were before: for the memory of
  /// a forked copy.
  void restore_stack(const ProcessMemory& memory) const;

 private:
  long run(uint64_t code, long number, const std::array<uint64_t, 6>& arguments, pid_t* child);
  Refusal no_room() const;
  Refusal no_call(long number, int signal) const;

  const StoppedThread& thread_;
  const ProcessMemory& memory_;
  const InjectionSite& site_;
  user_regs_struct going_on_;
  uint64_t mask_ = 0;
  uint64_t scratch_ = 0;
  uint64_t stack_pointer_ = 0;
  uint64_t saved_at_ = 0;
  Bytes saved_;
  bool prepared_ = false;
  bool resend_stop_ = false;
};

}  // namespace rfork::tracer
