#include <linux/futex.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>

#include "tracer/interrupted_call.h"

namespace rfork::tracer {

namespace {

// include/linux/errno.h of the kernel: never seen by programs.
constexpr int64_t kRestartSys = -512;
constexpr int64_t kRestartNoIntr = -513;
constexpr int64_t kRestartNoHandler = -514;
constexpr int64_t kRestartBlock = -516;

constexpr uint64_t kSystemCallSize = 2;  // 0f 05

using Register = unsigned long long user_regs_struct::*;

// Where a call keeps its relative time-out, and as what.
struct TimeOut {
  enum class Form { none, milliseconds, timespec_pointer, sleep } form = Form::none;
  Register holder = nullptr;
  Register remainder = nullptr;  // of a sleep: where the kernel has written the rest already
};

/// Whether it sleeps for a time that only the process itself makes pass.
bool sleeps_by_cpu_time(const user_regs_struct& regs, long number) {
  const auto clock = static_cast<clockid_t>(regs.rdi);
  return number == SYS_clock_nanosleep && (clock < 0 || clock == CLOCK_PROCESS_CPUTIME_ID);
}

TimeOut time_out_of(const user_regs_struct& regs, long number) {
  using Form = TimeOut::Form;
  switch (number) {
    case SYS_nanosleep:
      return {Form::sleep, &user_regs_struct::rdi, &user_regs_struct::rsi};
    case SYS_clock_nanosleep:
      if ((regs.rsi & TIMER_ABSTIME) != 0) return {};
      // How much has passed only the kernel knows, and tells it if it was asked to.
      if (sleeps_by_cpu_time(regs, number) && regs.r10 == 0) return {};
      return {Form::sleep, &user_regs_struct::rdx, &user_regs_struct::r10};
    case SYS_poll:
      return {Form::milliseconds, &user_regs_struct::rdx};
    case SYS_futex:
      // Only FUTEX_WAIT counts from now; the others name a moment.
      if ((regs.rsi & FUTEX_CMD_MASK) != FUTEX_WAIT) return {};
      return {Form::timespec_pointer, &user_regs_struct::r10};
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
      return {Form::milliseconds, &user_regs_struct::r10};
    case SYS_epoll_pwait2:
      return {Form::timespec_pointer, &user_regs_struct::r10};
    case SYS_rt_sigtimedwait:
      return {Form::timespec_pointer, &user_regs_struct::rdx};
    case SYS_semtimedop:
      return {Form::timespec_pointer, &user_regs_struct::r10};
    case SYS_io_getevents:
      return {Form::timespec_pointer, &user_regs_struct::r8};
    default:
      return {};
  }
}

// Calls that give EINTR for a stop without any signal (signal(7), "Interruption of system calls ...
// by stop signals"), and for which making them again is the same as having gone on waiting.
bool gives_eintr_for_a_stop(long number) {
  switch (number) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_rt_sigtimedwait:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_io_getevents:
    // On a socket with SO_RCVTIMEO or SO_SNDTIMEO, which start anew.
    case SYS_accept:
    case SYS_accept4:
    case SYS_connect:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_sendmmsg:
    case SYS_read:
    case SYS_readv:
    case SYS_preadv:
    case SYS_preadv2:
    case SYS_write:
    case SYS_writev:
    case SYS_pwritev:
    case SYS_pwritev2:
    case SYS_sendfile:
    case SYS_splice:
      return true;
    default:
      return false;
  }
}

/// Whether the call is one of the 32-bit table, which a 64-bit program may make, too.
bool is_by_int80(const user_regs_struct& regs, const ProcessMemory& memory) {
  constexpr std::array kInt80{std::byte{0xcd}, std::byte{0x80}};
  static_assert(kInt80.size() == kSystemCallSize);
  std::array<std::byte, kSystemCallSize> code;
  return memory.try_read(regs.rip - kSystemCallSize, code) && code == kInt80;
}

bool is_restartable_by_block(long number) {
  return number == SYS_nanosleep || number == SYS_clock_nanosleep || number == SYS_poll ||
         number == SYS_futex;
}

// The `mov eax, NUMBER` in front of the syscall instruction, where libraries put it.
std::optional<long> number_in_code(const user_regs_struct& regs, const ProcessMemory& memory) {
  std::array<std::byte, 64> code;
  const uint64_t start = regs.rip - kSystemCallSize - code.size();
  if (!memory.try_read(start, code)) return std::nullopt;
  for (size_t at = code.size() - 5 + 1; at-- > 0;) {
    int32_t number;
    std::memcpy(&number, code.data() + at + 1, sizeof number);
    if (code[at] == std::byte{0xb8} && is_restartable_by_block(number)) return number;
  }
  return std::nullopt;
}

// A call that had been interrupted before is restart_syscall by now, with the arguments of the
// first one and without its number. Only four calls are restarted so; their arguments tell them
// apart where the code does not.
long number_before_restart(const user_regs_struct& regs, const ProcessMemory& memory) {
  if (const auto number = number_in_code(regs, memory)) return *number;
  constexpr uint64_t kLowestAddress = 65536;
  const auto is_time = [&](uint64_t address) {
    timespec time{};
    return memory.try_read_value(address, time) && time.tv_sec >= 0 && time.tv_nsec >= 0 &&
           time.tv_nsec < 1'000'000'000;
  };
  if (regs.rdi < kLowestAddress || static_cast<int32_t>(regs.rdi) < 0) {
    return regs.rsi == 0 && is_time(regs.rdx) ? SYS_clock_nanosleep : SYS_poll;
  }
  if (regs.rsi >= kLowestAddress) return SYS_nanosleep;
  const uint64_t command = regs.rsi & FUTEX_CMD_MASK;
  const bool futex_command = command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET;
  if (regs.rsi != 0 && futex_command && is_time(regs.r10)) return SYS_futex;
  if (regs.rsi == 0 && is_time(regs.rdi)) return SYS_nanosleep;
  return regs.rsi == 0 && is_time(regs.r10) ? SYS_futex : SYS_poll;
}

void put_remaining_timespec(GoingOn& going_on, Register holder, int64_t remaining_ns) {
  const timespec rest{remaining_ns / 1'000'000'000, remaining_ns % 1'000'000'000};
  image::MemoryPatch patch;
  static_assert(sizeof rest + 15 <= kTimeOutRoom);
  patch.address = (going_on.registers.rsp - kRedZone - sizeof rest) & ~uint64_t{15};
  patch.bytes.resize(sizeof rest);
  std::memcpy(patch.bytes.data(), &rest, sizeof rest);
  going_on.registers.*holder = patch.address;
  going_on.patch = std::move(patch);
}

// Shortens the time-out by what has passed of it.
void shorten(GoingOn& going_on, const TimeOut& time_out, const ProcessMemory& memory,
             int64_t passed_ns) {
  user_regs_struct& regs = going_on.registers;
  using Form = TimeOut::Form;
  switch (time_out.form) {
    case Form::none:
      return;
    case Form::milliseconds: {
      const auto timeout_ms = static_cast<int32_t>(regs.*time_out.holder);
      if (timeout_ms <= 0) return;
      const auto left = std::max<int64_t>(0, timeout_ms - passed_ns / 1'000'000);
      regs.*time_out.holder = static_cast<uint64_t>(left);
      return;
    }
    case Form::sleep:
      // The kernel has written the rest there when the sleep was interrupted.
      if (regs.*time_out.remainder != 0) {
        regs.*time_out.holder = regs.*time_out.remainder;
        return;
      }
      [[fallthrough]];
    case Form::timespec_pointer: {
      timespec whole{};
      if (passed_ns == 0 || regs.*time_out.holder == 0) return;
      if (!memory.try_read_value(regs.*time_out.holder, whole)) return;
      const int64_t whole_ns = whole.tv_sec > 1'000'000'000
                                   ? INT64_MAX / 2
                                   : whole.tv_sec * 1'000'000'000 + whole.tv_nsec;
      put_remaining_timespec(going_on, time_out.holder, std::max<int64_t>(0, whole_ns - passed_ns));
      return;
    }
  }
}

}  // namespace

bool may_have_relative_time_out(long number) {
  user_regs_struct regs{};
  return number == SYS_restart_syscall || time_out_of(regs, number).form != TimeOut::Form::none;
}

GoingOn after_interruption(const StoppedThread& thread, const ProcessMemory& memory,
                           int64_t slept_ns, bool signal_waits) {
  GoingOn result;
  result.registers = thread.registers;
  user_regs_struct& regs = result.registers;
  if (static_cast<int64_t>(regs.orig_rax) < 0) return result;
  const auto outcome = static_cast<int64_t>(regs.rax);
  auto number = static_cast<long>(regs.orig_rax);
  const bool restarts = outcome == kRestartSys || outcome == kRestartNoIntr ||
                        outcome == kRestartNoHandler || outcome == kRestartBlock;
  if (restarts && is_by_int80(regs, memory)) {
    // Made again as it was: what has passed of a time-out only the kernel could take off.
    regs.rip -= kSystemCallSize;
    regs.rax = regs.orig_rax;
    regs.orig_rax = ~0ull;
    result.again = true;
    result.at_origin_too = outcome == kRestartBlock;
    return result;
  }
  const bool repeats = outcome == -EINTR && !signal_waits && gives_eintr_for_a_stop(number);
  if (restarts || repeats) {
    const bool restarted_before = number == SYS_restart_syscall;
    if (restarted_before) number = number_before_restart(regs, memory);
    if (outcome == kRestartBlock || repeats) {
      shorten(result, time_out_of(regs, number), memory, slept_ns);
    }
    regs.rip -= kSystemCallSize;
    regs.rax = static_cast<uint64_t>(number);
    result.again = true;
    // A thread whose sleep could be measured is wound back at the origin as well: left to the
    // kernel it would be in restart_syscall, whose time since the first start the next capture
    // can't know. One that is there already has its deadline with the kernel only.
    const bool measured = slept_ns > 0 && !sleeps_by_cpu_time(regs, number);
    result.at_origin_too = repeats || (outcome == kRestartBlock && measured && !restarted_before);
  }
  regs.orig_rax = ~0ull;
  return result;
}

}  // namespace rfork::tracer
