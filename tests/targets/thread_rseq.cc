// Restartable sequences: still registered (the kernel keeps cpu_id up to date in glibc's area), and a
// sequence that was under way when the process was taken was aborted, not continued on another CPU.
#include <pthread.h>
#include <sched.h>
#include <sys/rseq.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

volatile struct rseq* own_area() {
  return reinterpret_cast<volatile struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) +
                                                 __rseq_offset);
}

std::atomic<int> spinning{0};
volatile int released = 0;

// Reads the CPU number at the start of a critical section, stays in it until released (or aborted,
// then starts again), and gives whether the number was still right at its end.
void* critical(void*) {
  volatile struct rseq* area = own_area();
  ++spinning;
  uint32_t at_start = 0, at_end = 0;
  asm volatile(R"(
    .pushsection __rseq_cs, "aw"
    .balign 32
  9:
    .long 0, 0
    .quad 1f, 2f - 1f, 4f
    .popsection
  0:
    lea 9b(%%rip), %%rax
    mov %%rax, 8(%[area])
  1:
    mov 4(%[area]), %[start]
  3:
    cmpl $0, %[released]
    je 3b
    mov 4(%[area]), %[end]
  2:
    jmp 5f
    .byte 0x0f, 0xb9, 0x3d
    .long 0x53053053
  4:
    jmp 0b
  5:
  )"
               : [start] "=&r"(at_start), [end] "=&r"(at_end)
               : [area] "r"(area), [released] "m"(released)
               : "rax", "memory", "cc");
  area->rseq_cs = 0;
  return reinterpret_cast<void*>(intptr_t(at_start == at_end));
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  if (__rseq_size == 0) target::skip("glibc registered no rseq");
  pthread_t threads[3];
  for (pthread_t& thread : threads) {
    EXPECT_EQ(pthread_create(&thread, nullptr, critical, nullptr), 0);
  }
  while (spinning != 3) sched_yield();
  target::ready();
  target::wait_for_go();
  released = 1;
  for (pthread_t thread : threads) {
    void* right;
    EXPECT_EQ(pthread_join(thread, &right), 0);
    if (right == nullptr) target::fail("a critical section went on on another CPU");
  }
  cpu_set_t allowed;
  MUST(sched_getaffinity(0, sizeof allowed, &allowed));
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    MUST(sched_setaffinity(0, sizeof one, &one));
    EXPECT_EQ(own_area()->cpu_id, cpu);
    EXPECT_EQ(sched_getcpu(), cpu);
  }
  target::finish();
}
