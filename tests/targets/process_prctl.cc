// What a process and its threads have set with prctl(2) and membarrier(2), and users and
// capabilities that only one thread has. That it works, too: memory that may not become executable,
// rdtsc that faults.
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "target.h"

namespace {

// Later than the headers of Debian 12.
constexpr int kSetMdwe = 65, kGetMdwe = 66, kSetMemoryMerge = 67, kGetMemoryMerge = 68;

std::atomic<int> set_up{0}, verified{0};
sigjmp_buf faulted;

int through_pointer(int option) {
  int value = -1;
  MUST(prctl(option, &value));
  return value;
}

std::string line(const char* key) {
  const std::string path = "/proc/thread-self/status";
  const std::string text = target::read_file(path.c_str());
  const size_t at = text.find(std::string("\n") + key);
  return at == std::string::npos ? "" : text.substr(at + 1, text.find('\n', at + 1) - at - 1);
}

std::string now() {
  std::string all;
  for (const char* key :
       {"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:",
        "NoNewPrivs:", "Speculation_Store_Bypass:", "SpeculationIndirectBranch:", "THP_enabled:"}) {
    all += line(key) + "\n";
  }
  char text[300];
  std::snprintf(text, sizeof text,
                "subreaper %d tsc %d securebits %#x keepcaps %d slack %d thp %d mdwe %d "
                "merge %d membarrier %#lx dump %s mce %d",
                through_pointer(PR_GET_CHILD_SUBREAPER), through_pointer(PR_GET_TSC),
                prctl(PR_GET_SECUREBITS), prctl(PR_GET_KEEPCAPS), prctl(PR_GET_TIMERSLACK),
                prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), prctl(kGetMdwe, 0, 0, 0, 0),
                prctl(kGetMemoryMerge, 0, 0, 0, 0), syscall(SYS_membarrier, 1 << 9, 0, 0),
                target::read_file("/proc/self/coredump_filter").c_str(),
                prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
  return all + text;
}

void drop_capability(int capability) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  MUST(syscall(SYS_capget, &header, data));
  data[capability / 32].effective &= ~(1u << capability % 32);
  data[capability / 32].permitted &= ~(1u << capability % 32);
  MUST(syscall(SYS_capset, &header, data));
}

void on_fault(int) {
  siglongjmp(faulted, 1);
}

void expect_no_time_stamps() {
  if (sigsetjmp(faulted, 1) != 0) return;
  asm volatile("rdtsc" : : : "eax", "edx");
  target::fail("rdtsc works");
}

/// Where the parent would end before the child (a daemon, rfork-run -d) it is left out, and said.
void expect_parent_signal(int signal) {
  const int now = through_pointer(PR_GET_PDEATHSIG);
  if (now == signal) return;
  EXPECT_EQ(now, 0);
  const std::string path = "/proc/" + std::to_string(getppid()) + "/comm";
  const std::string parent = target::read_file(path.c_str());
  EXPECT(parent != "rfork-run\n" && parent != "rfork-init\n");
}

void keep_now(void (*check)()) {
  const std::string before = now();
  const int signal = through_pointer(PR_GET_PDEATHSIG);
  ++set_up;
  target::wait_for_go();
  EXPECT_TEXT(now(), before);
  expect_parent_signal(signal);
  if (check != nullptr) check();
  ++verified;
  for (;;) pause();
}

void* without_time_stamps(void*) {
  MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
  MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1));
  MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
  keep_now(expect_no_time_stamps);
  return nullptr;
}

void* without_speculation(void*) {
  if (prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_FORCE_DISABLE, 0, 0) != 0)
    EXPECT(errno == ENXIO || errno == ENODEV || errno == EPERM);
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0));
  keep_now(nullptr);
  return nullptr;
}

// Raw calls are for the calling thread alone: credentials(7).
void* as_somebody(void*) {
  MUST(syscall(SYS_setresgid, 7, 8, 9));
  MUST(syscall(SYS_setresuid, 0, 1234, 0));
  MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
  keep_now(nullptr);
  return nullptr;
}

void* with_less(void*) {
  setfsuid(4321);
  drop_capability(CAP_NET_RAW);
  MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS_LOCKED));
  keep_now(nullptr);
  return nullptr;
}

// kernel: a grandchild of a subreaper becomes its child.
void expect_subreaper() {
  int ends[2];
  MUST(pipe(ends));
  const pid_t child = MUST(fork());
  if (child == 0) {
    const pid_t grandchild = fork();
    if (grandchild > 0) (void)!write(ends[1], &grandchild, sizeof grandchild);
    if (grandchild == 0) usleep(20'000);
    _exit(0);
  }
  pid_t grandchild = 0;
  EXPECT_EQ(read(ends[0], &grandchild, sizeof grandchild), sizeof grandchild);
  EXPECT_EQ(MUST(waitpid(child, nullptr, 0)), child);
  EXPECT_EQ(MUST(waitpid(grandchild, nullptr, 0)), grandchild);
  close(ends[0]), close(ends[1]);
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const bool root = geteuid() == 0;
  MUST(static_cast<long>(signal(SIGSEGV, on_fault) == SIG_ERR ? -1 : 0));
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  MUST(prctl(PR_SET_PDEATHSIG, SIGTERM));
  MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
  MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
  MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0));
  (void)prctl(kSetMemoryMerge, 1, 0, 0, 0);
  FILE* const filter = std::fopen("/proc/self/coredump_filter", "w");
  EXPECT(filter != nullptr && std::fputs("0x15", filter) >= 0 && std::fclose(filter) == 0);
  if (root)
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT));
  else
    MUST(prctl(PR_SET_KEEPCAPS, 1));

  const bool denies = prctl(kSetMdwe, 1, 0, 0, 0) == 0;

  void* (*const threads[])(void*) = {without_time_stamps, without_speculation, as_somebody,
                                     with_less};
  const int count = root ? 4 : 2;
  for (int i = 0; i < count; ++i) {
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, nullptr, threads[i], nullptr), 0);
  }
  while (set_up < count) usleep(1000);
  void* const page =
      target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  const std::string before = now();

  target::ready();
  target::wait_for_go();

  EXPECT_TEXT(now(), before);
  expect_parent_signal(SIGTERM);
  if (denies) EXPECT(mprotect(page, target::kPage, PROT_READ | PROT_EXEC) == -1 && errno == EACCES);
  MUST(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
  expect_subreaper();
  while (verified < count) usleep(1000);
  target::finish();
}
