// System calls without a libc: results are the kernel's own, -errno on failure.
#pragma once

#include <stdint.h>

namespace rfork::stub {

inline long system_call(long number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0,
                        uint64_t e = 0, uint64_t f = 0) {
  long result;
  register uint64_t r10 __asm__("r10") = d;
  register uint64_t r8 __asm__("r8") = e;
  register uint64_t r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

}  // namespace rfork::stub

extern "C" {
/// clone3 with a new stack; the child calls `entry(a, b, c)` there, which must not return. Gives
/// the tid or -errno.
long rfork_stub_clone3(const void* arguments, uint64_t size,
                       void (*entry)(void*, uint64_t, uint64_t), void* a, uint64_t b, uint64_t c);
/// The same by clone(2), for where a seccomp filter knows no clone3 (containers).
long rfork_stub_clone(uint64_t flags, uint64_t stack_end, void (*entry)(void*, uint64_t, uint64_t),
                      void* a, uint64_t b, uint64_t c);
/// Continues at `entry(a, b)` with the stack pointer at `stack_end`.
[[noreturn]] void rfork_stub_jump(uint64_t stack_end, void* a, uint64_t b, uint64_t entry);
/// The last step of a thread: rsp, the counter of threads in the hole, the hole, and the exit code
/// that uses them. See vdso_x86_64.h of the loader for that code.
[[noreturn]] void rfork_stub_leave(uint64_t rsp, volatile uint32_t* counter, uint64_t hole_start,
                                   uint64_t hole_size, uint64_t exit_code);
/// Touches an AMX tile: the kernel enlarges the thread's XSAVE area on the first use.
void rfork_stub_use_amx();
}
