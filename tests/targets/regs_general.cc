// Every general register, the direction flag and the red zone, in a loop that never enters the kernel.
#include <pthread.h>

#include "target.h"

extern "C" {
int spin_registers();
alignas(8) volatile char spin_flag = 0;
volatile char spin_started = 0;
uint64_t spin_out[15 + 1];   // rax rbx rcx rdx rsi rdi rbp r8..r15, then rflags
uint64_t spin_red_zone[16];
}

// The stack is moved down before flags are pushed, so that the red zone is read before it is gone.
asm(R"(
.text
.globl spin_registers
.type spin_registers, @function
spin_registers:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  movabs $0x1001010101010101, %rax
  movabs $0x1002020202020202, %rbx
  movabs $0x1003030303030303, %rcx
  movabs $0x1004040404040404, %rdx
  movabs $0x1005050505050505, %rsi
  movabs $0x1006060606060606, %rdi
  movabs $0x1007070707070707, %rbp
  movabs $0x1008080808080808, %r8
  movabs $0x1009090909090909, %r9
  movabs $0x100a0a0a0a0a0a0a, %r10
  movabs $0x100b0b0b0b0b0b0b, %r11
  movabs $0x100c0c0c0c0c0c0c, %r12
  movabs $0x100d0d0d0d0d0d0d, %r13
  movabs $0x100e0e0e0e0e0e0e, %r14
  movabs $0x100f0f0f0f0f0f0f, %r15
  .set i, 1
  .rept 16
    movq $(0x11111110 + i), -8*i(%rsp)
    .set i, i + 1
  .endr
  std
  movb $1, spin_started(%rip)
1:
  cmpb $0, spin_flag(%rip)
  je 1b
  movq %rax, spin_out(%rip)
  movq %rbx, 8+spin_out(%rip)
  movq %rcx, 16+spin_out(%rip)
  movq %rdx, 24+spin_out(%rip)
  movq %rsi, 32+spin_out(%rip)
  movq %rdi, 40+spin_out(%rip)
  movq %rbp, 48+spin_out(%rip)
  movq %r8, 56+spin_out(%rip)
  movq %r9, 64+spin_out(%rip)
  movq %r10, 72+spin_out(%rip)
  movq %r11, 80+spin_out(%rip)
  movq %r12, 88+spin_out(%rip)
  movq %r13, 96+spin_out(%rip)
  movq %r14, 104+spin_out(%rip)
  movq %r15, 112+spin_out(%rip)
  .set i, 1
  .rept 16
    movq -8*i(%rsp), %rax
    movq %rax, 8*(i-1)+spin_red_zone(%rip)
    .set i, i + 1
  .endr
  lea -128(%rsp), %rsp
  pushfq
  popq 120+spin_out(%rip)
  lea 128(%rsp), %rsp
  cld
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  xor %eax, %eax
  ret
.size spin_registers, .-spin_registers
)");

namespace {

void* release_spinner(void*) {
  while (!spin_started) {
  }
  target::ready();
  target::wait_for_go();
  spin_flag = 1;
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  pthread_t releaser;
  EXPECT_EQ(pthread_create(&releaser, nullptr, release_spinner, nullptr), 0);
  spin_registers();
  static const char* const names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
                                      "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  for (uint64_t i = 0; i < 15; ++i) {
    const uint64_t want = 0x1000000000000000 | ((i + 1) * 0x0001010101010101);
    if ((spin_out[i] & 0x0fff) != (want & 0x0fff) || spin_out[i] >> 48 != (0x1000 | (i + 1))) {
      target::fail("%s is %#lx", names[i], static_cast<unsigned long>(spin_out[i]));
    }
  }
  EXPECT((spin_out[15] & 0x400) != 0);  // DF
  for (uint64_t i = 0; i < 16; ++i) EXPECT_EQ(spin_red_zone[i], 0x11111110 + i + 1);
  EXPECT_EQ(pthread_join(releaser, nullptr), 0);
  target::finish();
}
