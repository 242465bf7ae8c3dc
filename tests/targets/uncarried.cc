// What can't be carried and only the kernel knows of, one kind a run, named by the argument.
// rfork-trace must refuse it, and the process goes on with it.
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <fcntl.h>
#include <link.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <thread>

#include "target.h"

namespace {

constexpr size_t kPage = 4096;

void run_until_go() {
  target::ready();
  target::wait_for_go();
}

/// System calls of libc are the kernel's, all others the program's.
void with_dispatch() {
  static volatile char selector = 1;  // SYSCALL_DISPATCH_FILTER_BLOCK
  struct Text {
    uintptr_t start = 0, size = 0;
  } text;
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* result) {
        if (std::strstr(object->dlpi_name, "libc.so") == nullptr) return 0;
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const auto& part = object->dlpi_phdr[i];
          if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0) continue;
          *static_cast<Text*>(result) = {object->dlpi_addr + part.p_vaddr, part.p_memsz};
        }
        return 0;
      },
      &text);
  constexpr int kSetDispatch = 59;  // PR_SET_SYSCALL_USER_DISPATCH
  EXPECT(text.size > 0);
  if (prctl(kSetDispatch, 1, text.start, text.size, &selector) != 0)
    target::skip("no syscall user dispatch");
  run_until_go();
  MUST(prctl(kSetDispatch, 0, 0, 0, 0));
}

void with_landlock() {
  landlock_ruleset_attr rules = {};
  rules.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_DIR;
  const int ruleset = int(syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0));
  if (ruleset < 0) target::skip("no Landlock");
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(int(syscall(SYS_landlock_restrict_self, ruleset, 0)));
  MUST(close(ruleset));
  run_until_go();
  EXPECT_EQ(mkdir("forbidden", 0700), -1);
  EXPECT_EQ(errno, EACCES);
}

void with_thread_apart(int what) {
  std::thread([what] {
    if (unshare(what) != 0) target::skip("unshare");
    run_until_go();
  }).join();
}

void with_segments() {
  user_desc segment = {};
  segment.limit = 1;
  segment.base_addr = 0x10000;
  segment.seg_32bit = 1;
  if (syscall(SYS_modify_ldt, 1, &segment, sizeof segment) != 0) target::skip("no modify_ldt");
  run_until_go();
  char table[LDT_ENTRY_SIZE];
  EXPECT_EQ(syscall(SYS_modify_ldt, 0, table, sizeof table), long(sizeof table));
}

void with_faulting_cpuid() {
  if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) != 0) target::skip("CPUID can't fault here");
  run_until_go();
  EXPECT_EQ(syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0), 0);
}

/// A thread whose stack ends where its stack pointer is. It sleeps in the kernel for as long as
/// the other one does not wake it.
void with_full_stack() {
  auto* const stack =
      static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT(stack != MAP_FAILED);
  MUST(mprotect(stack + kPage, kPage, PROT_READ | PROT_WRITE));
  static volatile int word = 0;
  volatile int* const at = &word;
  std::thread sleeper([stack, at] {
    // futex(word, FUTEX_WAIT, 0, nullptr) on the other stack.
    register long time_out asm("r10") = 0;
    long result = SYS_futex;
    asm volatile(
        "xchg %%rsp, %%rbx\n\t"
        "1: mov $202, %%eax\n\t"
        "syscall\n\t"
        "cmpl $0, (%%rdi)\n\t"
        "je 1b\n\t"
        "xchg %%rsp, %%rbx"
        : "+a"(result)
        : "b"(stack + kPage + 256), "D"(at), "S"(0), "d"(0), "r"(time_out)
        : "rcx", "r11", "memory");
  });
  run_until_go();
  word = 1;
  syscall(SYS_futex, at, 1, 1, nullptr, nullptr, 0);
  sleeper.join();
}

int be_child(void*) {
  run_until_go();
  target::finish();
}

/// A child that shares something with this process, its parent, which ends as it does.
void with_parent(int shared) {
  constexpr size_t kStack = 64 * kPage;
  auto* const stack = static_cast<char*>(
      mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT(stack != MAP_FAILED);
  const pid_t child = MUST(clone(be_child, stack + kStack, shared | SIGCHLD, nullptr));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv, 1);
  const std::string kind = target::argument(0);
  if (kind == "dispatch") {
    with_dispatch();
  } else if (kind == "landlock") {
    with_landlock();
  } else if (kind == "descriptors") {
    with_thread_apart(CLONE_FILES);
  } else if (kind == "directory") {
    with_thread_apart(CLONE_FS);
  } else if (kind == "segments") {
    with_segments();
  } else if (kind == "cpuid") {
    with_faulting_cpuid();
  } else if (kind == "full-stack") {
    with_full_stack();
  } else if (kind == "shared-memory") {
    with_parent(CLONE_VM);
  } else if (kind == "shared-descriptors") {
    with_parent(CLONE_FILES);
  } else {
    target::fail("no such kind: %s", kind.c_str());
  }
  target::finish();
}
