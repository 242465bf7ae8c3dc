#include "tracer/signal_frame_x86_64.h"

#include <asm/sigcontext.h>
#include <cpuid.h>

#include <algorithm>
#include <cstring>

namespace rfork::tracer {

namespace {

// arch/x86/include/uapi/asm/ucontext.h, which can't be included beside <signal.h>.
constexpr uint64_t kFpXstate = 1, kSigcontextSs = 2, kStrictRestoreSs = 4;

constexpr size_t kFxsaveSize = 512;
constexpr size_t kXsaveHeaderEnd = kFxsaveSize + 64;

// struct rt_sigframe up to the siginfo, which rt_sigreturn does not read.
struct KernelFrame {
  uint64_t return_address;
  uint64_t flags;
  uint64_t link;
  uint64_t stack_address;
  int32_t stack_flags;
  int32_t stack_padding;
  uint64_t stack_size;
  struct sigcontext context;
  uint64_t mask;
  std::byte siginfo[128];
};
static_assert(sizeof(KernelFrame) == 8 + 40 + 256 + 8 + 128);

// Bytes of the area that hold the components in use. Less than the whole area where a component
// (AMX tiles) needs a permission that the thread may lack: the kernel takes no frame larger than
// the thread's own.
size_t used_size(const Bytes& xstate) {
  uint64_t in_use;
  std::memcpy(&in_use, xstate.data() + kFxsaveSize, sizeof in_use);
  size_t end = kXsaveHeaderEnd;
  for (unsigned component = 2; component < 63; ++component) {
    if ((in_use >> component & 1) == 0) continue;
    unsigned size, offset, c, d;
    __cpuid_count(0xd, component, size, offset, c, d);
    end = std::max<size_t>(end, offset + size);
  }
  return std::min(end, xstate.size());
}

struct sigcontext make_context(const user_regs_struct& from, uint64_t fpstate) {
  struct sigcontext to {};
  to.r8 = from.r8, to.r9 = from.r9, to.r10 = from.r10, to.r11 = from.r11;
  to.r12 = from.r12, to.r13 = from.r13, to.r14 = from.r14, to.r15 = from.r15;
  to.rdi = from.rdi, to.rsi = from.rsi, to.rbp = from.rbp, to.rbx = from.rbx;
  to.rdx = from.rdx, to.rax = from.rax, to.rcx = from.rcx, to.rsp = from.rsp;
  to.rip = from.rip, to.eflags = from.eflags;
  to.cs = static_cast<uint16_t>(from.cs), to.__pad0 = static_cast<uint16_t>(from.ss);
  to.fpstate = reinterpret_cast<struct _fpstate*>(fpstate);
  return to;
}

}  // namespace

SignalFrame build_signal_frame(uint64_t top, const user_regs_struct& registers, const Bytes& xstate,
                               uint64_t mask, const image::AltStack& alt_stack) {
  const size_t area = used_size(xstate);
  const uint64_t fpstate = (top - area - FP_XSTATE_MAGIC2_SIZE) & ~uint64_t{63};
  SignalFrame frame;
  // As a handler would find it: 8 below a multiple of 16.
  frame.start = ((fpstate - sizeof(KernelFrame)) & ~uint64_t{15}) - 8;
  frame.stack_pointer = frame.start + 8;
  frame.bytes.resize(top - frame.start);

  KernelFrame kernel{};
  kernel.flags = kFpXstate | kSigcontextSs | kStrictRestoreSs;
  kernel.stack_address = alt_stack.address;
  kernel.stack_flags = alt_stack.flags;
  kernel.stack_size = alt_stack.size;
  kernel.context = make_context(registers, fpstate);
  kernel.mask = mask;
  std::memcpy(frame.bytes.data(), &kernel, sizeof kernel);

  std::byte* const fp = frame.bytes.data() + (fpstate - frame.start);
  std::memcpy(fp, xstate.data(), area);
  struct _fpx_sw_bytes software {};
  software.magic1 = FP_XSTATE_MAGIC1;
  software.extended_size = static_cast<uint32_t>(area + FP_XSTATE_MAGIC2_SIZE);
  std::memcpy(&software.xfeatures, xstate.data() + kFxsaveSize, sizeof software.xfeatures);
  software.xfeatures |= 3;  // x87 and SSE are always there
  software.xstate_size = static_cast<uint32_t>(area);
  std::memcpy(fp + offsetof(struct _fpstate_64, sw_reserved), &software, sizeof software);
  const uint32_t magic2 = FP_XSTATE_MAGIC2;
  std::memcpy(fp + area, &magic2, sizeof magic2);
  return frame;
}

}  // namespace rfork::tracer
