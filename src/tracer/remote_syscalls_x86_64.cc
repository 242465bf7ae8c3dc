#include <elf.h>
#include <fmt/format.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "image/signal_frame_x86_64.h"
#include "tracer/interrupted_call.h"
#include "tracer/ptrace.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kAllSignals = ~uint64_t{0};
constexpr uint64_t kTrapFlag = 0x100;
constexpr uint64_t kForkOffset = 16;
constexpr uint64_t kExitOffset = 40;

constexpr uint8_t kCode[InjectionSite::kSize] = {
    // call_then_return
    0x0f,
    0x05,  // syscall
    0xb8,
    0x0f,
    0x00,
    0x00,
    0x00,  // mov eax, SYS_rt_sigreturn
    0x0f,
    0x05,  // syscall
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    // fork_then_return
    0x0f,
    0x05,  // syscall
    0x48,
    0x85,
    0xc0,  // test rax, rax
    0x74,
    0x07,  // jz 1f
    0xb8,
    0x0f,
    0x00,
    0x00,
    0x00,  // mov eax, SYS_rt_sigreturn
    0x0f,
    0x05,  // syscall
    0xb8,
    0xe7,
    0x00,
    0x00,
    0x00,  // 1: mov eax, SYS_exit_group
    0x31,
    0xff,  // xor edi, edi
    0x0f,
    0x05,  // syscall
    0xcc,
    // call_then_exit
    0x0f,
    0x05,  // syscall
    0xb8,
    0xe7,
    0x00,
    0x00,
    0x00,  // mov eax, SYS_exit_group
    0x31,
    0xff,  // xor edi, edi
    0x0f,
    0x05,  // syscall
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
    0xcc,
};

// Where the code can go: behind the ELF image, or over its section headers, which nothing reads at
// run time.
uint64_t find_place(const ProcessMemory& memory, const Range& vdso) {
  const auto header = memory.read_value<Elf64_Ehdr>(vdso.start);
  const uint64_t headers_end = header.e_shoff + uint64_t{header.e_shnum} * header.e_shentsize;
  const uint64_t place = vdso.size() - InjectionSite::kSize;
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && headers_end <= place)
    return vdso.start + place;
  const uint64_t over_headers = (header.e_shoff + 7) & ~uint64_t{7};
  if (headers_end <= vdso.size() && over_headers + InjectionSite::kSize <= headers_end) {
    return vdso.start + over_headers;
  }
  throw Refusal(
      Failure::cannot_trace,
      fmt::format("process {} has a vDSO without room for rfork's few instructions", memory.pid()),
      "such a kernel isn't supported");
}

}  // namespace

InjectionSite::InjectionSite(pid_t tid, const ProcessMemory& memory, const Range& vdso,
                             const image::Host& host, std::vector<Range> read_only)
    : host_(host), read_only_(std::move(read_only)) {
  if (vdso.size() < 2 * kSize) {
    throw Refusal(Failure::cannot_trace, fmt::format("process {} has no vDSO", memory.pid()),
                  "a program that has unmapped it can't be carried; a host without one was booted "
                  "with vdso=0");
  }
  address_ = find_place(memory, vdso);
  memory.read(address_, std::as_writable_bytes(std::span(before_)));
  for (size_t i = 0; i < before_.size(); ++i) {
    uint64_t word;
    std::memcpy(&word, kCode + i * 8, 8);
    poke(tid, address_ + i * 8, word);
  }
}

bool InjectionSite::may_write(const Range& range) const {
  return std::ranges::none_of(read_only_, [&](const Range& other) {
    return other.start < range.end && range.start < other.end;
  });
}

void InjectionSite::remove(pid_t tid) noexcept {
  try {
    for (size_t i = 0; i < before_.size(); ++i) poke(tid, address_ + i * 8, before_[i]);
  } catch (const std::exception&) {
    // The process has ended, and its memory with it.
  }
}

void InjectionSite::remove_from(const ProcessMemory& memory) const {
  memory.try_write(address_, std::as_bytes(std::span(before_)));
}

uint64_t InjectionSite::fork_then_return() const {
  return address_ + kForkOffset;
}
uint64_t InjectionSite::call_then_exit() const {
  return address_ + kExitOffset;
}

RemoteSyscalls::RemoteSyscalls(const StoppedThread& thread, const ProcessMemory& memory,
                               const InjectionSite& site, const user_regs_struct& going_on)
    : thread_(thread), memory_(memory), site_(site), going_on_(going_on) {}

void RemoteSyscalls::prepare() {
  if (prepared_) return;
  mask_ = signal_mask(thread_.tid);
  image::Thread state;
  state.tid = thread_.tid;
  state.signal_mask = mask_;
  state.registers.resize(sizeof going_on_);
  std::memcpy(state.registers.data(), &going_on_, sizeof going_on_);
  state.xstate = regset(thread_.tid, NT_X86_XSTATE, "NT_X86_XSTATE");
  // The alternate stack isn't known yet: a size that sigaltstack(2) refuses leaves it as it is.
  state.alt_stack = {0, 0, 0};
  const uint64_t top = thread_.registers.rsp - kRedZone - kTimeOutRoom;
  const image::SignalFrame frame = image::build_signal_frame(
      state, image::translate_xstate(state, site_.host(), site_.host()), top);
  scratch_ = (frame.address - kScratchSize) & ~uint64_t{15};
  stack_pointer_ = frame.stack_pointer;
  saved_at_ = scratch_;
  saved_.resize(top - scratch_);
  // What is read of a stack that grows makes it grow.
  if (top <= scratch_ || !site_.may_write({scratch_, top}) ||
      !memory_.try_read(saved_at_, saved_) || !memory_.try_write(frame.address, frame.bytes)) {
    throw no_room();
  }
  prepared_ = true;
}

Refusal RemoteSyscalls::no_room() const {
  return {Failure::cannot_carry,
          fmt::format("thread {} has no room for a signal's {} bytes below its stack pointer "
                      "({:#x}), which rfork needs to ask it for its state",
                      thread_.tid, saved_.size(), thread_.registers.rsp),
          "try again: it may be elsewhere by then"};
}

long RemoteSyscalls::run(uint64_t code, long number, const std::array<uint64_t, 6>& arguments,
                         pid_t* child) {
  prepare();
  user_regs_struct regs = thread_.registers;
  regs.eflags &= ~kTrapFlag;  // of a program that steps itself
  regs.rip = code;
  regs.rsp = stack_pointer_;
  regs.rax = static_cast<uint64_t>(number);
  regs.orig_rax = kAllSignals;  // -1: no system call to restart
  regs.rdi = arguments[0], regs.rsi = arguments[1], regs.rdx = arguments[2];
  regs.r10 = arguments[3], regs.r8 = arguments[4], regs.r9 = arguments[5];
  // Registers before the mask, and the mask back before the registers: at every moment the thread
  // would go on right.
  set_registers(thread_.tid, regs);
  set_signal_mask(thread_.tid, kAllSignals);
  for (int syscall_stops = 0; syscall_stops < 2;) {
    resume(thread_.tid, PTRACE_SYSCALL);
    const WaitStatus status = wait_for(thread_.tid);
    switch (status.kind()) {
      case WaitStatus::Kind::exited:
      case WaitStatus::Kind::killed:
        throw ProcessGone(thread_.tid);
      case WaitStatus::Kind::syscall_stop:
        ++syscall_stops;
        break;
      case WaitStatus::Kind::event_stop:
        if (child != nullptr) *child = static_cast<pid_t>(event_message(thread_.tid));
        break;
      case WaitStatus::Kind::signal_delivery_stop:
        // All that can be blocked is: this is SIGSTOP, given back when the thread is itself again,
        // or one that the call itself has caused.
        if (status.signal() != SIGSTOP) throw no_call(number, status.signal());
        resend_stop_ = true;
        break;
      case WaitStatus::Kind::interrupt_stop:
      case WaitStatus::Kind::group_stop:
        break;
    }
  }
  return static_cast<long>(registers(thread_.tid).rax);
}

Refusal RemoteSyscalls::no_call(long number, int signal) const {
  return {Failure::cannot_carry,
          fmt::format("system call {} of rfork in thread {} gave signal {}: the program answers "
                      "system calls itself (PR_SET_SYSCALL_USER_DISPATCH), or something else "
                      "keeps it from making them",
                      number, thread_.tid, signal)};
}

long RemoteSyscalls::call(long number, const std::array<uint64_t, 6>& arguments) {
  return run(site_.call_then_return(), number, arguments, nullptr);
}

long RemoteSyscalls::call_clone(const std::array<uint64_t, 6>& arguments, pid_t& child) {
  return run(site_.fork_then_return(), SYS_clone, arguments, &child);
}

void RemoteSyscalls::restore_stack(const ProcessMemory& memory) const {
  if (prepared_) memory.try_write(saved_at_, saved_);
}

RemoteSyscalls::~RemoteSyscalls() {
  if (!prepared_) return;
  try {
    set_signal_mask(thread_.tid, mask_);
    set_registers(thread_.tid, thread_.registers);
    restore_stack(memory_);
    if (resend_stop_) ::syscall(SYS_tgkill, memory_.pid(), thread_.tid, SIGSTOP);
  } catch (const std::exception&) {
    // The process has ended: nothing is left to put back.
  }
}

}  // namespace rfork::tracer
