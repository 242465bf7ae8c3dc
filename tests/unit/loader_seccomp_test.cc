// What seccomp filters say of a call, and which can be set again.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

#include "loader/seccomp_filters.h"

using namespace rfork;
using namespace rfork::loader;

namespace {

Bytes program(const std::vector<sock_filter>& code) {
  const auto bytes = std::as_bytes(std::span(code));
  return {bytes.begin(), bytes.end()};
}

sock_filter statement(int code, uint32_t k) {
  return {static_cast<uint16_t>(code), 0, 0, k};
}

const sock_filter kLoadNumber = statement(BPF_LD | BPF_W | BPF_ABS, 0);

/// One call is answered so, all others are allowed.
Bytes answering(uint32_t number, uint32_t action) {
  return program({kLoadNumber,
                  {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, number},
                  statement(BPF_RET | BPF_K, action),
                  statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)});
}

uint32_t answer(const Bytes& filter, int number) {
  seccomp_data call{};
  call.nr = number;
  call.arch = AUDIT_ARCH_X86_64;
  Bytes data(sizeof call);
  std::memcpy(data.data(), &call, sizeof call);
  return evaluate_filter(filter, data);
}

std::vector<Reason> reasons(const std::vector<Bytes>& filters, bool no_new_privs = true) {
  image::Process process;
  process.no_new_privs = no_new_privs;
  image::Thread thread;
  thread.seccomp_mode = SECCOMP_MODE_FILTER;
  for (const Bytes& filter : filters) {
    thread.seccomp_filters.push_back(static_cast<uint32_t>(process.seccomp_filters.size()));
    process.seccomp_filters.push_back({filter, false});
  }
  process.threads = {thread};
  Findings findings;
  check_seccomp(process, findings);
  return findings.reasons;
}

}  // namespace

TEST_CASE("filters are evaluated as the kernel does") {
  const Bytes simple = answering(SYS_mkdir, SECCOMP_RET_ERRNO | 5);
  CHECK(answer(simple, SYS_mkdir) == (SECCOMP_RET_ERRNO | 5));
  CHECK(answer(simple, SYS_rmdir) == SECCOMP_RET_ALLOW);
  // ((nr + 3) * 2 & ~1) >> 1, kept in memory and given as the result.
  const Bytes sums =
      program({kLoadNumber, statement(BPF_ALU | BPF_ADD | BPF_K, 3),
               statement(BPF_MISC | BPF_TAX, 0), statement(BPF_LD | BPF_IMM, 2),
               statement(BPF_ALU | BPF_MUL | BPF_X, 0), statement(BPF_ALU | BPF_AND | BPF_K, ~1u),
               statement(BPF_ST, 7), statement(BPF_LD | BPF_IMM, 0), statement(BPF_LD | BPF_MEM, 7),
               statement(BPF_ALU | BPF_RSH | BPF_K, 1), statement(BPF_RET | BPF_A, 0)});
  CHECK(answer(sums, 39) == 42);
  for (const Bytes& broken :
       {program({kLoadNumber}), program({statement(BPF_LD | BPF_W | BPF_ABS, 64)}),
        program({statement(BPF_ALU | BPF_DIV | BPF_K, 0), statement(BPF_RET | BPF_K, 1)}),
        program({statement(BPF_JMP | BPF_JA, ~0u)})}) {
    CHECK(answer(broken, 1) == SECCOMP_RET_KILL_PROCESS);
  }
}

TEST_CASE("only filters that can be set again are accepted") {
  const Bytes harmless = answering(SYS_mkdir, SECCOMP_RET_ERRNO);
  CHECK(reasons({harmless, harmless}).empty());
  CHECK(reasons({harmless}, false).size() == 1);
  CHECK(reasons({answering(SYS_rt_sigreturn, SECCOMP_RET_KILL_THREAD)}).size() == 1);
  // Then prctl(2) is left.
  CHECK(reasons({answering(SYS_seccomp, SECCOMP_RET_TRAP), harmless}).empty());
  const Bytes neither = program({kLoadNumber,
                                 {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_seccomp},
                                 {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_prctl},
                                 statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
                                 statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)});
  CHECK(reasons({neither}).empty());
  CHECK(reasons({neither, harmless}).size() == 1);
}
