// Seccomp: filters that a thread has of its own, inherited ones, several in order, one that permits
// hardly anything, strict mode. As an ordinary user it can't be carried: the kernel shows filters
// to root only.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "target.h"

namespace {

std::atomic<int> set_up{0}, verified{0};
int to_strict[2], from_strict[2];

constexpr uint32_t kNumber = offsetof(seccomp_data, nr);

sock_filter statement(int code, uint32_t k) {
  return {uint16_t(code), 0, 0, k};
}
sock_filter jump_if(uint32_t number, uint8_t yes, uint8_t no) {
  return {BPF_JMP | BPF_JEQ | BPF_K, yes, no, number};
}

void install(std::vector<sock_filter> program, unsigned flags = 0) {
  const sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter));
}

/// One call fails with this error, all others are as before.
std::vector<sock_filter> denying(uint32_t number, uint32_t error) {
  return {statement(BPF_LD | BPF_W | BPF_ABS, kNumber), jump_if(number, 0, 1),
          statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
          statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
}

/// All but these calls end the process.
std::vector<sock_filter> permitting(std::vector<uint32_t> numbers) {
  std::vector<sock_filter> program = {statement(BPF_LD | BPF_W | BPF_ABS, kNumber)};
  const size_t count = numbers.size();
  for (size_t i = 0; i < count; ++i) {
    program.push_back(jump_if(numbers[i], static_cast<uint8_t>(count - i), 0));
  }
  program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  return program;
}

std::string field(const char* key) {
  const std::string text = target::read_file("/proc/thread-self/status");
  const size_t at = text.find(std::string("\n") + key + ":\t");
  if (at == std::string::npos) return "";
  const size_t start = at + std::strlen(key) + 3;
  return text.substr(start, text.find('\n', start) - start);
}

void expect_error(long result, int error) {
  EXPECT_EQ(result, -1);
  EXPECT_EQ(errno, error);
}

void expect_common() {
  expect_error(personality(0xffffffff), 77);
  EXPECT_TEXT(field("NoNewPrivs"), "1");
}

void* with_two(void*) {
  install(denying(SYS_mkdir, 78));
  install(denying(SYS_rmdir, 79), SECCOMP_FILTER_FLAG_LOG);
  install(denying(SYS_mkdir, 80));  // the latest of those that say no
  ++set_up;
  target::wait_for_go();
  expect_common();
  EXPECT_TEXT(field("Seccomp"), "2");
  EXPECT_TEXT(field("Seccomp_filters"), "4");
  expect_error(syscall(SYS_mkdir, "/proc/none", 0700), 80);
  expect_error(syscall(SYS_rmdir, "/proc/none"), 79);
  ++verified;
  return nullptr;
}

void* as_inherited(void*) {
  ++set_up;
  target::wait_for_go();
  expect_common();
  EXPECT_TEXT(field("Seccomp_filters"), "1");
  expect_error(syscall(SYS_mkdir, "/proc/none", 0700), ENOENT);
  install(denying(SYS_mkdir, 81));  // and one more can be had
  expect_error(syscall(SYS_mkdir, "/proc/none", 0700), 81);
  ++verified;
  return nullptr;
}

// What the restore itself does at the end (munmap, prctl, seccomp) is forbidden.
void* in_a_cage(void*) {
  install(permitting(
      {SYS_access, SYS_clock_nanosleep, SYS_nanosleep, SYS_futex, SYS_rt_sigreturn, SYS_write}));
  ++set_up;
  target::wait_for_go();
  ++verified;
  for (;;) usleep(1000);
}

void* strictly(void*) {
  ++set_up;
  MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
  char byte;
  while (read(to_strict[0], &byte, 1) == 1) {
    if (write(from_strict[1], &byte, 1) != 1) break;
  }
  syscall(SYS_exit, 0);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  if (geteuid() != 0) target::skip("the kernel shows seccomp filters to root only");
  MUST(pipe(to_strict));
  MUST(pipe(from_strict));
  pthread_t strict, thread;
  EXPECT_EQ(pthread_create(&strict, nullptr, strictly, nullptr), 0);
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  install(denying(SYS_personality, 77));
  for (void* (*const work)(void*) : {with_two, as_inherited, in_a_cage}) {
    EXPECT_EQ(pthread_create(&thread, nullptr, work, nullptr), 0);
  }
  while (set_up < 4) usleep(1000);
  usleep(20'000);

  target::ready();
  target::wait_for_go();

  expect_common();
  EXPECT_TEXT(field("Seccomp_filters"), "1");
  char byte = 'x';
  EXPECT_EQ(write(to_strict[1], &byte, 1), 1);
  byte = 0;
  EXPECT_EQ(read(from_strict[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'x');
  while (verified < 3) usleep(1000);
  // libc knows its tid, which may be another by now.
  clockid_t clock;
  EXPECT_EQ(pthread_getcpuclockid(strict, &clock), 0);
  const std::string status = "/proc/self/task/" + std::to_string(~(clock >> 3)) + "/status";
  EXPECT(target::read_file(status.c_str()).find("Seccomp:\t1\n") != std::string::npos);
  target::finish();
}
