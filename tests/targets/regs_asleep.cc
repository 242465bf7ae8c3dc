// Vector registers of threads that sleep, their stacks aligned in every way: the rest of the sleep
// and the registers must not be put into the same place.
#include <alloca.h>
#include <sys/syscall.h>
#include <time.h>

#include <thread>
#include <vector>

#include "target.h"

namespace {

volatile int stop;

struct Vector {
  uint64_t words[4];
};

/// Loads `in` into a register that no function keeps, sleeps again and again, and gives what is in
/// it at last.
__attribute__((target("avx"))) Vector asleep(const Vector& in) {
  Vector out{};
  const timespec time{0, 50'000'000};
  asm volatile(
      "vmovdqu (%[in]), %%ymm6\n"
      "1:\n"
      "mov %[nanosleep], %%eax\n"
      "mov %[time], %%rdi\n"
      "xor %%esi, %%esi\n"
      "syscall\n"
      "cmpl $0, (%[stop])\n"
      "je 1b\n"
      "vmovdqu %%ymm6, (%[out])\n"
      :
      : [in] "r"(&in), [out] "r"(&out), [time] "r"(&time), [stop] "r"(&stop),
        [nanosleep] "i"(SYS_nanosleep)
      : "rax", "rcx", "rdi", "rsi", "r11", "xmm6", "memory");
  return out;
}

void sleep_and_compare(size_t number) {
  volatile char* const depth = static_cast<volatile char*>(alloca(16 * (number + 1)));
  depth[0] = 0;
  const Vector in{{number, ~number, number * 0x9e3779b97f4a7c15, 77}};
  const Vector out = asleep(in);
  if (std::memcmp(&in, &out, sizeof in) != 0) {
    target::fail("thread %zu: %llx %llx %llx %llx", number, (unsigned long long)out.words[0],
                 (unsigned long long)out.words[1], (unsigned long long)out.words[2],
                 (unsigned long long)out.words[3]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  if (!__builtin_cpu_supports("avx")) target::skip("no AVX");
  std::vector<std::thread> threads;
  for (size_t number = 0; number < 16; ++number) threads.emplace_back(sleep_and_compare, number);

  target::ready();
  target::wait_for_go();

  stop = 1;
  for (std::thread& thread : threads) thread.join();
  target::finish();
}
