// A program that steps itself: the trap flag is set, and a handler of SIGTRAP sees each of its
// instructions.
#include <signal.h>
#include <unistd.h>

#include "target.h"

namespace {

volatile uint64_t steps = 0;
volatile bool watching = false, seen_go = false;

void step(int) {
  steps = steps + 1;
  if (watching && steps % 64 == 0 && target::go()) seen_go = true;
}

// The compiler may keep values in the red zone.
void set_trap_flag() {
  asm volatile(
      "lea -128(%%rsp), %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\t"
      "lea 128(%%rsp), %%rsp" ::
          : "memory", "cc");
}

void clear_trap_flag() {
  asm volatile(
      "lea -128(%%rsp), %%rsp\n\tpushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq\n\t"
      "lea 128(%%rsp), %%rsp" ::
          : "memory", "cc");
}

// As many steps as it has instructions, whatever happens meanwhile.
uint64_t count_steps() {
  const uint64_t before = steps;
  set_trap_flag();
  asm volatile("mov $1000, %%ecx\n1:\tdec %%ecx\n\tjnz 1b" ::: "ecx", "cc");
  clear_trap_flag();
  return steps - before;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  struct sigaction action {};
  action.sa_handler = step;
  MUST(sigaction(SIGTRAP, &action, nullptr));
  const uint64_t alone = count_steps();
  EXPECT(alone > 2000 && alone < 2010);
  target::ready();
  watching = true;
  uint64_t a = 1, b = 2;
  set_trap_flag();
  // In registers, each step another value: what is lost shows.
  while (!seen_go) {
    a = a * 6364136223846793005 + 1442695040888963407;
    b = (b ^ a) * 3;
    b = b * 0xaaaaaaaaaaaaaaab ^ a;
    a = (a - 1442695040888963407) * 0xc097ef87329e28a5;
    asm volatile("" : "+r"(a), "+r"(b));
  }
  clear_trap_flag();
  EXPECT_EQ(a, 1);
  EXPECT_EQ(b, 2);
  EXPECT_EQ(count_steps(), alone);
  target::finish();
}
