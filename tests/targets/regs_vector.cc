// x87, SSE, AVX or AVX-512 registers and their control words, live in loops that never enter the
// kernel, with other values in each of three threads.
#include <pthread.h>

#include <atomic>

#include "target.h"

// What a loop loads, and what it found when the flag went up.
struct alignas(64) VectorState {
  unsigned char in[32 * 64];
  unsigned char out[32 * 64];
  uint64_t mask_in[8];   // k0-k7
  uint64_t mask_out[8];
  uint32_t mxcsr_in, mxcsr_out;
  uint16_t fcw_in, fcw_out;
  uint16_t fsw_out;
};

extern "C" {
volatile char vector_flag = 0;
void spin_x87(VectorState*);
void spin_sse(VectorState*);
void spin_avx(VectorState*);
void spin_avx512(VectorState*);
}

// rdi is the state; offsets are checked by static_assert below.
asm(R"(
.macro begin name
.text
.globl \name
.type \name, @function
\name:
  ldmxcsr 4224(%rdi)
.endm
.macro spin name
1:
  cmpb $0, vector_flag(%rip)
  je 1b
.endm
.macro finish name
  stmxcsr 4228(%rdi)
  movl $0x1f80, -4(%rsp)
  ldmxcsr -4(%rsp)
  ret
.size \name, .-\name
.endm

.altmacro
.macro load op, reg, n, size
  \op \size*\n(%rdi), %\reg\n
.endm
.macro store op, reg, n, size
  \op %\reg\n, 2048+\size*\n(%rdi)
.endm

begin spin_x87
  fninit
  fldcw 4232(%rdi)
  .set i, 7
  .rept 8
    load_at = i
    fldt 16*i(%rdi)
    .set i, i - 1
  .endr
  spin
  fnstsw 4236(%rdi)
  fnstcw 4234(%rdi)
  .set i, 0
  .rept 8
    fstpt 2048+16*i(%rdi)
    .set i, i + 1
  .endr
  fninit
finish spin_x87

begin spin_sse
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    load movaps, xmm, \n, 16
  .endr
  spin
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    store movaps, xmm, \n, 16
  .endr
finish spin_sse

begin spin_avx
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    load vmovaps, ymm, \n, 32
  .endr
  spin
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    store vmovaps, ymm, \n, 32
  .endr
  vzeroupper
finish spin_avx

begin spin_avx512
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    load vmovaps, zmm, \n, 64
  .endr
  .irp n,0,1,2,3,4,5,6,7
    kmovq 4096+8*\n(%rdi), %k\n
  .endr
  spin
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    store vmovaps, zmm, \n, 64
  .endr
  .irp n,0,1,2,3,4,5,6,7
    kmovq %k\n, 4160+8*\n(%rdi)
  .endr
  vzeroupper
finish spin_avx512
.noaltmacro
)");

static_assert(offsetof(VectorState, out) == 2048);
static_assert(offsetof(VectorState, mask_in) == 4096);
static_assert(offsetof(VectorState, mask_out) == 4160);
static_assert(offsetof(VectorState, mxcsr_in) == 4224);
static_assert(offsetof(VectorState, mxcsr_out) == 4228);
static_assert(offsetof(VectorState, fcw_in) == 4232);
static_assert(offsetof(VectorState, fcw_out) == 4234);
static_assert(offsetof(VectorState, fsw_out) == 4236);

namespace {

constexpr int kThreads = 3;
VectorState states[kThreads];
std::atomic<int> starting{kThreads};
void (*spin)(VectorState*);

void* run(void* state) {
  --starting;
  spin(static_cast<VectorState*>(state));
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv, 1);
  const std::string kind = target::argument(0);
  size_t bytes = 0;
  if (kind == "x87") {
    spin = spin_x87, bytes = 8 * 16;
  } else if (kind == "sse") {
    spin = spin_sse, bytes = 16 * 16;
  } else if (kind == "avx") {
    if (!__builtin_cpu_supports("avx")) target::skip("this CPU has no AVX");
    spin = spin_avx, bytes = 16 * 32;
  } else if (kind == "avx512") {
    if (!__builtin_cpu_supports("avx512bw")) target::skip("this CPU has no AVX-512 BW");
    spin = spin_avx512, bytes = 32 * 64;
  } else {
    target::fail("x87, sse, avx or avx512, not %s", kind.c_str());
  }
  pthread_t threads[kThreads];
  for (int i = 0; i < kThreads; ++i) {
    VectorState& state = states[i];
    target::fill(state.in, sizeof state.in, 10 + i);
    target::fill(state.mask_in, sizeof state.mask_in, 20 + i);
    state.mxcsr_in = 0x1f80 | (i << 13) | (1 << i);  // rounding mode and a sticky flag of its own
    state.fcw_in = 0x037f & ~(i << 8);               // precision control of its own
    if (kind == "x87") {
      for (int r = 0; r < 8; ++r) {
        const long double value = 3.14159L * (i + 1) + r;
        std::memset(state.in + 16 * r, 0, 16);
        std::memcpy(state.in + 16 * r, &value, 10);
      }
    }
    EXPECT_EQ(pthread_create(&threads[i], nullptr, run, &state), 0);
  }
  while (starting != 0) {
  }
  target::ready();
  target::wait_for_go();
  vector_flag = 1;
  for (int i = 0; i < kThreads; ++i) {
    EXPECT_EQ(pthread_join(threads[i], nullptr), 0);
    const VectorState& state = states[i];
    for (size_t at = 0; at < bytes; ++at) {
      if (state.in[at] != state.out[at]) {
        target::fail("thread %d: %s registers differ at byte %zu", i, kind.c_str(), at);
      }
    }
    EXPECT_EQ(state.mxcsr_out, state.mxcsr_in);
    if (kind == "x87") {
      EXPECT_EQ(state.fcw_out, state.fcw_in);
      EXPECT_EQ(state.fsw_out & 0x3800, 0);  // top of stack: all eight are full
    }
    if (kind == "avx512") {
      EXPECT(std::memcmp(state.mask_in, state.mask_out, sizeof state.mask_in) == 0);
    }
  }
  target::finish();
}
