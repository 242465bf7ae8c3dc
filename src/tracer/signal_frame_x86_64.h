// The frame that the kernel leaves on a stack for a signal handler, and that rt_sigreturn(2) takes
// back: a whole thread state in memory.
#pragma once

#include <sys/user.h>

#include <cstdint>

#include "base/io.h"
#include "image/model.h"

namespace rfork::tracer {

struct SignalFrame {
  uint64_t start = 0;          ///< lowest address of `bytes`
  uint64_t stack_pointer = 0;  ///< what rsp must be when rt_sigreturn is called
  Bytes bytes;
};

/// A frame below `top` that restores `registers`, the XSAVE area `xstate` (in this host's standard
/// layout, as PTRACE_GETREGSET gives it), `mask` and the alternate stack. Layout: struct
/// rt_sigframe of arch/x86/include/asm/sigframe.h, the XSAVE area above it aligned to 64 bytes.
SignalFrame build_signal_frame(uint64_t top, const user_regs_struct& registers, const Bytes& xstate,
                               uint64_t mask, const image::AltStack& alt_stack);

}  // namespace rfork::tracer
