#include "faults.h"

#include <setjmp.h>

#include "target.h"

namespace target {

namespace {

sigjmp_buf escape;
volatile int fault_code;

void on_fault(int, siginfo_t* info, void*) {
  fault_code = info->si_code;
  siglongjmp(escape, 1);
}

bool try_to(void (*act)(volatile char*), volatile char* at, int* code) {
  if (sigsetjmp(escape, 1) == 0) {
    act(at);
    return true;
  }
  if (code != nullptr) *code = fault_code;
  return false;
}

}  // namespace

void catch_faults() {
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  MUST(sigaction(SIGSEGV, &action, nullptr));
}

bool may_read(const volatile char* at, int* code) {
  return try_to([](volatile char* p) { (void)*p; }, const_cast<volatile char*>(at), code);
}

bool may_write(volatile char* at, int* code) {
  return try_to([](volatile char* p) { *p = *p; }, at, code);
}

}  // namespace target
