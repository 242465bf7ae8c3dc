// PROT_NONE and write-only memory with contents behind it, and guard pages that still fault.
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "target.h"

namespace {

sigjmp_buf escape;
void* volatile fault_address;

void on_fault(int, siginfo_t* info, void*) {
  fault_address = info->si_addr;
  siglongjmp(escape, 1);
}

void expect_fault(volatile char* at) {
  fault_address = nullptr;
  if (sigsetjmp(escape, 1) == 0) {
    (void)*at;
    target::fail("reading %p didn't fault", static_cast<const volatile void*>(at));
  }
  if (fault_address != at)
    target::fail("fault at %p, not %p", fault_address, const_cast<char*>(at));
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 16 * target::kPage;
  char* hidden =
      static_cast<char*>(target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  target::fill(hidden, size, 1);
  MUST(mprotect(hidden, size, PROT_NONE));
  const size_t large = 700 * target::kPage;
  char* tall = static_cast<char*>(
      target::map(3 * large, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  target::fill(tall, 3 * large, 3);
  MUST(mprotect(tall, large, PROT_NONE));
  MUST(mprotect(tall + 2 * large, large, PROT_WRITE));
  // guard | contents | guard
  char* guarded = static_cast<char*>(target::map(size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS));
  MUST(mprotect(guarded + target::kPage, size - 2 * target::kPage, PROT_READ | PROT_WRITE));
  target::fill(guarded + target::kPage, size - 2 * target::kPage, 2);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  MUST(sigaction(SIGSEGV, &action, nullptr));

  target::ready();
  target::wait_for_go();

  expect_fault(hidden + 5);
  expect_fault(hidden + size - 1);
  expect_fault(guarded + target::kPage - 1);
  expect_fault(guarded + size - target::kPage);
  target::expect_filled("guarded", guarded + target::kPage, size - 2 * target::kPage, 2);
  MUST(mprotect(hidden, size, PROT_READ));
  target::expect_filled("behind PROT_NONE", hidden, size, 1);
  expect_fault(tall + large - 1);
  MUST(mprotect(tall, 3 * large, PROT_READ));
  target::expect_filled("three kinds of protection", tall, 3 * large, 3);
  target::finish();
}
