#include "image/signal_frame_x86_64.h"

#include <asm/sigcontext.h>
#include <fmt/format.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace rfork::image {

namespace {

constexpr uint64_t kFxsaveSize = 512;
constexpr uint64_t kHeaderSize = 64;
constexpr uint64_t kLegacySize = kFxsaveSize + kHeaderSize;
constexpr uint64_t kLegacyComponents = 3;  // x87 and SSE live in the FXSAVE part
constexpr unsigned kAmxTileData = 18;
constexpr uint64_t kMxcsrOffset = 24;
constexpr uint32_t kMxcsrMask = 0xffff;
constexpr uint64_t kMagic2Size = 4;

// uapi/asm/ucontext.h, which clashes with libc's.
constexpr uint64_t kUcFpXstate = 1, kUcSigcontextSs = 2, kUcStrictRestoreSs = 4;

struct KernelUcontext {
  uint64_t flags;
  uint64_t link;
  uint64_t stack_address;
  int32_t stack_flags;
  uint32_t padding;
  uint64_t stack_size;
  sigcontext_64 context;
  uint64_t mask;
};
struct RtSigframe {
  uint64_t return_address;
  KernelUcontext ucontext;
  std::byte info[128];
};
static_assert(sizeof(RtSigframe) == 440);

const XstateComponent* component(const Host& host, unsigned index) {
  for (const auto& candidate : host.xstate) {
    if (candidate.index == index) return &candidate;
  }
  return nullptr;
}

user_regs_struct registers_of(const Thread& thread) {
  user_regs_struct registers;
  if (thread.registers.size() != sizeof registers) {
    throw Refusal(Failure::bad_image,
                  fmt::format("the registers of thread {} have {} bytes instead of {}", thread.tid,
                              thread.registers.size(), sizeof registers));
  }
  std::memcpy(&registers, thread.registers.data(), sizeof registers);
  return registers;
}

/// A mask with reserved bits would make the kernel refuse the whole area.
void clean_mxcsr(Bytes& area) {
  uint32_t mxcsr;
  std::memcpy(&mxcsr, area.data() + kMxcsrOffset, sizeof mxcsr);
  mxcsr &= kMxcsrMask;
  std::memcpy(area.data() + kMxcsrOffset, &mxcsr, sizeof mxcsr);
}

XstateArea fxsave_only(const Thread& thread) {
  XstateArea area;
  area.bytes.assign(kFxsaveSize, std::byte{0});
  if (thread.floating_point.size() >= kFxsaveSize) {
    std::copy_n(thread.floating_point.begin(), kFxsaveSize, area.bytes.begin());
  } else {
    const uint16_t control = 0x37f;
    const uint32_t mxcsr = 0x1f80;
    std::memcpy(area.bytes.data(), &control, sizeof control);
    std::memcpy(area.bytes.data() + kMxcsrOffset, &mxcsr, sizeof mxcsr);
  }
  clean_mxcsr(area.bytes);
  // Bytes that would look like a mark of extended state.
  constexpr auto kSoftware = static_cast<ptrdiff_t>(offsetof(_fpstate_64, sw_reserved));
  std::fill(area.bytes.begin() + kSoftware, area.bytes.end(), std::byte{0});
  return area;
}

/// The kernel's software bytes in the FXSAVE part, and the second magic number behind the area.
void mark_extended(Bytes& bytes, const XstateArea& area) {
  _fpx_sw_bytes software{};
  software.magic1 = FP_XSTATE_MAGIC1;
  software.extended_size = static_cast<uint32_t>(area.bytes.size() + kMagic2Size);
  software.xfeatures = area.components;
  software.xstate_size = static_cast<uint32_t>(area.bytes.size());
  std::memcpy(bytes.data() + offsetof(_fpstate_64, sw_reserved), &software, sizeof software);
  const uint32_t magic2 = FP_XSTATE_MAGIC2;
  std::memcpy(bytes.data() + area.bytes.size(), &magic2, sizeof magic2);
}

sigcontext_64 context_of(const user_regs_struct& registers, const Thread& thread) {
  sigcontext_64 context{};
  context.r8 = registers.r8, context.r9 = registers.r9;
  context.r10 = registers.r10, context.r11 = registers.r11;
  context.r12 = registers.r12, context.r13 = registers.r13;
  context.r14 = registers.r14, context.r15 = registers.r15;
  context.di = registers.rdi, context.si = registers.rsi;
  context.bp = registers.rbp, context.bx = registers.rbx;
  context.dx = registers.rdx, context.ax = registers.rax;
  context.cx = registers.rcx, context.sp = registers.rsp;
  context.ip = registers.rip, context.flags = registers.eflags;
  context.cs = static_cast<uint16_t>(registers.cs);
  context.ss = static_cast<uint16_t>(registers.ss);
  context.oldmask = thread.signal_mask;
  return context;
}

}  // namespace

XstateArea translate_xstate(const Thread& thread, const Host& there, const Host& here) {
  if (thread.xstate.size() < kLegacySize || here.xcr0 == 0) return fxsave_only(thread);
  uint64_t in_use;
  std::memcpy(&in_use, thread.xstate.data() + kFxsaveSize, sizeof in_use);
  XstateArea area;
  area.lost = in_use & ~here.xcr0;
  area.bytes.assign(kLegacySize, std::byte{0});
  std::copy_n(thread.xstate.begin(), kFxsaveSize, area.bytes.begin());
  clean_mxcsr(area.bytes);
  area.components = kLegacyComponents;
  for (unsigned index = 2; index < 63; ++index) {
    if ((in_use >> index & 1) == 0 || (here.xcr0 >> index & 1) == 0) continue;
    const auto* from = component(there, index);
    const auto* to = component(here, index);
    if (from == nullptr || to == nullptr) continue;
    const uint64_t size = std::min(from->size, to->size);
    if (uint64_t{from->offset} + size > thread.xstate.size()) {
      throw Refusal(Failure::bad_image,
                    fmt::format("the XSAVE area of thread {} ends before its component {}",
                                thread.tid, index));
    }
    const uint64_t end = uint64_t{to->offset} + to->size;
    if (area.bytes.size() < end) area.bytes.resize(end, std::byte{0});
    std::copy_n(thread.xstate.begin() + from->offset, size, area.bytes.begin() + to->offset);
    area.components |= 1ull << index;
  }
  // x87 and SSE in their initial state: XSTATE_BV without their bits says so, whatever the bytes
  // are.
  const uint64_t held = (area.components & ~kLegacyComponents) | (in_use & kLegacyComponents);
  std::memcpy(area.bytes.data() + kFxsaveSize, &held, sizeof held);
  return area;
}

bool holds_amx_tiles(const XstateArea& area) {
  return (area.components >> kAmxTileData & 1) != 0;
}

uint64_t signal_frame_room(const XstateArea& area) {
  return sizeof(RtSigframe) + area.bytes.size() + kMagic2Size + 64 + 16;
}

SignalFrame build_signal_frame(const Thread& thread, const XstateArea& area, uint64_t top) {
  const user_regs_struct registers = registers_of(thread);
  const uint64_t state_room = area.bytes.size() + (area.components != 0 ? kMagic2Size : 0);
  const uint64_t state_at = (top - state_room) & ~uint64_t{63};
  const uint64_t frame_at = ((state_at - sizeof(RtSigframe)) & ~uint64_t{15}) - 8;

  RtSigframe frame{};
  frame.ucontext.flags =
      kUcSigcontextSs | kUcStrictRestoreSs | (area.components != 0 ? kUcFpXstate : 0);
  frame.ucontext.stack_address = thread.alt_stack.address;
  frame.ucontext.stack_flags = thread.alt_stack.flags;
  frame.ucontext.stack_size = thread.alt_stack.size;
  frame.ucontext.context = context_of(registers, thread);
  frame.ucontext.context.fpstate = state_at;
  frame.ucontext.mask = thread.signal_mask;

  SignalFrame result;
  result.address = frame_at;
  result.stack_pointer = frame_at + sizeof frame.return_address;
  result.bytes.assign(state_at - frame_at + state_room, std::byte{0});
  std::memcpy(result.bytes.data(), &frame, sizeof frame);
  Bytes state(state_room);
  std::copy(area.bytes.begin(), area.bytes.end(), state.begin());
  if (area.components != 0) mark_extended(state, area);
  std::copy(state.begin(), state.end(),
            result.bytes.begin() + static_cast<ptrdiff_t>(state_at - frame_at));
  return result;
}

ThreadBases thread_bases(const Thread& thread) {
  const user_regs_struct registers = registers_of(thread);
  return {registers.rsp, registers.fs_base, registers.gs_base};
}

}  // namespace rfork::image
