// A thread's state as rt_sigreturn(2) takes it: a signal frame, which loads every register at once.
//
// A restored thread starts from one; a thread that makes an injected call finds its way back by
// one.
//
// Layout: arch/x86/include/asm/sigframe.h (struct rt_sigframe) and uapi/asm/sigcontext.h; the XSAVE
// area stands behind it, 64-byte aligned, with the software bytes that tell the kernel which
// components it has. Rejected: setting registers one by one at the end of the stub, for the last
// jump needs a register.
#pragma once

#include <cstdint>
#include <span>

#include "base/io.h"
#include "image/model.h"

namespace rfork::image {

/// The XSAVE area in this host's layout.
struct XstateArea {
  Bytes bytes;              ///< standard format, as long as its last component needs
  uint64_t components = 0;  ///< what it holds: a mask as XCR0; 0: only FXSAVE
  uint64_t lost = 0;        ///< what the thread used there and this host doesn't keep
};

/// Translates a thread's XSAVE area from the layout of `there` to that of `here`. Components that
/// are in their initial state (XSTATE_BV) are left out, and so are those that `here` has not.
/// Throws Refusal(bad_image) when the area is too short for what it claims to hold.
XstateArea translate_xstate(const Thread& thread, const Host& there, const Host& here);

/// Whether it holds AMX tiles: those need permission and room that the kernel gives on demand.
bool holds_amx_tiles(const XstateArea& area);

struct SignalFrame {
  Bytes bytes;  ///< to be written at `address`
  uint64_t address = 0;
  uint64_t stack_pointer = 0;  ///< rsp at the time of rt_sigreturn
};

/// Room that a frame needs, with alignment.
uint64_t signal_frame_room(const XstateArea& area);

/// Builds the frame as high as possible below `top`.
SignalFrame build_signal_frame(const Thread& thread, const XstateArea& area, uint64_t top);

/// rsp of a thread, fs base, gs base.
struct ThreadBases {
  uint64_t stack_pointer = 0, fs_base = 0, gs_base = 0;
};
/// Throws Refusal(bad_image) when the registers aren't of the right size.
ThreadBases thread_bases(const Thread& thread);

}  // namespace rfork::image
