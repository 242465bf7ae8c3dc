#include "tools/process_words.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <time.h>

#include <array>
#include <bit>

#include "tools/words.h"

namespace rfork::tools {

namespace {

constexpr Word kPersonality[] = {
    {UNAME26, "UNAME26"},
    {ADDR_NO_RANDOMIZE, "ADDR_NO_RANDOMIZE"},
    {FDPIC_FUNCPTRS, "FDPIC_FUNCPTRS"},
    {MMAP_PAGE_ZERO, "MMAP_PAGE_ZERO"},
    {ADDR_COMPAT_LAYOUT, "ADDR_COMPAT_LAYOUT"},
    {READ_IMPLIES_EXEC, "READ_IMPLIES_EXEC"},
    {ADDR_LIMIT_32BIT, "ADDR_LIMIT_32BIT"},
    {SHORT_INODE, "SHORT_INODE"},
    {WHOLE_SECONDS, "WHOLE_SECONDS"},
    {STICKY_TIMEOUTS, "STICKY_TIMEOUTS"},
    {ADDR_LIMIT_3GB, "ADDR_LIMIT_3GB"},
};

constexpr Word kClocks[] = {
    {CLOCK_REALTIME, "CLOCK_REALTIME"},
    {CLOCK_MONOTONIC, "CLOCK_MONOTONIC"},
    {CLOCK_PROCESS_CPUTIME_ID, "CLOCK_PROCESS_CPUTIME_ID"},
    {CLOCK_THREAD_CPUTIME_ID, "CLOCK_THREAD_CPUTIME_ID"},
    {CLOCK_MONOTONIC_RAW, "CLOCK_MONOTONIC_RAW"},
    {CLOCK_REALTIME_COARSE, "CLOCK_REALTIME_COARSE"},
    {CLOCK_MONOTONIC_COARSE, "CLOCK_MONOTONIC_COARSE"},
    {CLOCK_BOOTTIME, "CLOCK_BOOTTIME"},
    {CLOCK_REALTIME_ALARM, "CLOCK_REALTIME_ALARM"},
    {CLOCK_BOOTTIME_ALARM, "CLOCK_BOOTTIME_ALARM"},
    {CLOCK_TAI, "CLOCK_TAI"},
};

constexpr Word kSecurebits[] = {
    {1u << SECURE_NOROOT, "SECBIT_NOROOT"},
    {1u << SECURE_NOROOT_LOCKED, "SECBIT_NOROOT_LOCKED"},
    {1u << SECURE_NO_SETUID_FIXUP, "SECBIT_NO_SETUID_FIXUP"},
    {1u << SECURE_NO_SETUID_FIXUP_LOCKED, "SECBIT_NO_SETUID_FIXUP_LOCKED"},
    {1u << SECURE_KEEP_CAPS, "SECBIT_KEEP_CAPS"},
    {1u << SECURE_KEEP_CAPS_LOCKED, "SECBIT_KEEP_CAPS_LOCKED"},
    {1u << SECURE_NO_CAP_AMBIENT_RAISE, "SECBIT_NO_CAP_AMBIENT_RAISE"},
    {1u << SECURE_NO_CAP_AMBIENT_RAISE_LOCKED, "SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED"},
};

constexpr Word kSchedulingFlags[] = {
    {0x01, "SCHED_FLAG_RESET_ON_FORK"},  {0x02, "SCHED_FLAG_RECLAIM"},
    {0x04, "SCHED_FLAG_DL_OVERRUN"},     {0x08, "SCHED_FLAG_KEEP_POLICY"},
    {0x10, "SCHED_FLAG_KEEP_PARAMS"},    {0x20, "SCHED_FLAG_UTIL_CLAMP_MIN"},
    {0x40, "SCHED_FLAG_UTIL_CLAMP_MAX"},
};

constexpr Word kMembarrier[] = {
    {1u << 0, "MEMBARRIER_CMD_GLOBAL"},
    {1u << 1, "MEMBARRIER_CMD_GLOBAL_EXPEDITED"},
    {1u << 2, "MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED"},
    {1u << 3, "MEMBARRIER_CMD_PRIVATE_EXPEDITED"},
    {1u << 4, "MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED"},
    {1u << 5, "MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE"},
    {1u << 6, "MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE"},
    {1u << 7, "MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ"},
    {1u << 8, "MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ"},
};

constexpr Word kDumpFilter[] = {
    {1u << 0, "private anonymous"}, {1u << 1, "shared anonymous"}, {1u << 2, "private files"},
    {1u << 3, "shared files"},      {1u << 4, "ELF headers"},      {1u << 5, "private huge pages"},
    {1u << 6, "shared huge pages"}, {1u << 7, "private DAX"},      {1u << 8, "shared DAX"},
};

// Intel 64 SDM, volume 1, 13.1.
constexpr Word kXstate[] = {
    {1u << 0, "x87"},    {1u << 1, "SSE"},       {1u << 2, "AVX"},        {1u << 3, "BNDREGS"},
    {1u << 4, "BNDCSR"}, {1u << 5, "opmask"},    {1u << 6, "ZMM_Hi256"},  {1u << 7, "Hi16_ZMM"},
    {1u << 8, "PT"},     {1u << 9, "PKRU"},      {1u << 10, "PASID"},     {1u << 11, "CET_U"},
    {1u << 12, "CET_S"}, {1u << 13, "HDC"},      {1u << 14, "UINTR"},     {1u << 15, "LBR"},
    {1u << 16, "HWP"},   {1u << 17, "XTILECFG"}, {1u << 18, "XTILEDATA"}, {1u << 19, "APX"},
};

}  // namespace

std::string personality_words(uint64_t personality) {
  constexpr uint64_t kDomain = 0xff;
  const std::string flags = bit_words(personality & ~kDomain, kPersonality);
  const uint64_t domain = personality & kDomain;
  const std::string name = domain == PER_LINUX     ? "PER_LINUX"
                           : domain == PER_LINUX32 ? "PER_LINUX32"
                                                   : fmt::format("{:#x}", domain);
  return flags.empty() ? name : name + "|" + flags;
}

std::string clock_word(int64_t clock) {
  if (clock >= 0) return value_word(static_cast<uint64_t>(clock), kClocks);
  // include/linux/posix-timers_types.h: the id from bit 3 on, inverted; bit 2 is a thread's; the
  // lowest two say which time is counted.
  const bool of_thread = (clock & 4) != 0;
  const int64_t counted = clock & 3;
  if (counted == 2 && clock >> 3 == -1)
    return of_thread ? "CLOCK_THREAD_CPUTIME_ID" : "CLOCK_PROCESS_CPUTIME_ID";
  return fmt::format("CPU clock of a {}, {}", of_thread ? "thread" : "process",
                     counted == 2   ? "CPUCLOCK_SCHED"
                     : counted == 1 ? "CPUCLOCK_VIRT"
                                    : "CPUCLOCK_PROF");
}

std::string interval_timer_word(size_t which) {
  constexpr std::array kNames{"ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"};
  return which < kNames.size() ? kNames.at(which) : std::to_string(which);
}

std::string seccomp_mode_word(uint64_t mode) {
  constexpr Word kModes[] = {
      {0, "SECCOMP_MODE_DISABLED"}, {1, "SECCOMP_MODE_STRICT"}, {2, "SECCOMP_MODE_FILTER"}};
  return value_word(mode, kModes);
}

std::string scheduling_policy_word(uint64_t policy) {
  constexpr Word kPolicies[] = {{0, "SCHED_OTHER"}, {1, "SCHED_FIFO"}, {2, "SCHED_RR"},
                                {3, "SCHED_BATCH"}, {5, "SCHED_IDLE"}, {6, "SCHED_DEADLINE"},
                                {7, "SCHED_EXT"}};
  return value_word(policy, kPolicies);
}

std::string scheduling_flag_words(uint64_t flags) {
  return bit_words(flags, kSchedulingFlags);
}

std::string io_priority_words(uint64_t priority) {
  constexpr Word kClasses[] = {{0, "IOPRIO_CLASS_NONE"},
                               {1, "IOPRIO_CLASS_RT"},
                               {2, "IOPRIO_CLASS_BE"},
                               {3, "IOPRIO_CLASS_IDLE"}};
  return fmt::format("{} {}", value_word(priority >> 13, kClasses), priority & 0x1fff);
}

std::string securebits_words(uint64_t bits) {
  return bit_words(bits, kSecurebits);
}

std::string notify_word(uint64_t notify) {
  constexpr Word kKinds[] = {{SIGEV_SIGNAL, "SIGEV_SIGNAL"},
                             {SIGEV_NONE, "SIGEV_NONE"},
                             {SIGEV_THREAD, "SIGEV_THREAD"},
                             {SIGEV_THREAD_ID, "SIGEV_THREAD_ID"}};
  return value_word(notify, kKinds);
}

std::string alt_stack_flag_words(uint64_t flags) {
  constexpr Word kFlags[] = {
      {SS_ONSTACK, "SS_ONSTACK"}, {SS_DISABLE, "SS_DISABLE"}, {0x80000000u, "SS_AUTODISARM"}};
  return bit_words(flags & 0xffffffffu, kFlags);
}

std::string speculation_words(uint64_t state) {
  constexpr Word kStates[] = {{PR_SPEC_PRCTL, "PR_SPEC_PRCTL"},
                              {PR_SPEC_ENABLE, "PR_SPEC_ENABLE"},
                              {PR_SPEC_DISABLE, "PR_SPEC_DISABLE"},
                              {PR_SPEC_FORCE_DISABLE, "PR_SPEC_FORCE_DISABLE"},
                              {0x10, "PR_SPEC_DISABLE_NOEXEC"}};
  return bit_words(state, kStates);
}

std::string memory_failure_word(uint64_t mode) {
  constexpr Word kModes[] = {{1 + PR_MCE_KILL_LATE, "PR_MCE_KILL_LATE"},
                             {1 + PR_MCE_KILL_EARLY, "PR_MCE_KILL_EARLY"}};
  return value_word(mode, kModes);
}

std::string time_stamp_counter_word(uint64_t mode) {
  constexpr Word kModes[] = {{PR_TSC_ENABLE, "PR_TSC_ENABLE"}, {PR_TSC_SIGSEGV, "PR_TSC_SIGSEGV"}};
  return value_word(mode, kModes);
}

std::string membarrier_words(uint64_t commands) {
  return bit_words(commands, kMembarrier);
}

std::string mdwe_words(uint64_t bits) {
  constexpr Word kBits[] = {{1, "PR_MDWE_REFUSE_EXEC_GAIN"}, {2, "PR_MDWE_NO_INHERIT"}};
  return bit_words(bits, kBits);
}

std::string dump_filter_words(uint64_t filter) {
  return bit_words(filter, kDumpFilter, ", ");
}

std::string protection_words(uint64_t protection) {
  constexpr Word kBits[] = {
      {PROT_READ, "PROT_READ"}, {PROT_WRITE, "PROT_WRITE"}, {PROT_EXEC, "PROT_EXEC"}};
  return protection == 0 ? "PROT_NONE" : bit_words(protection, kBits);
}

std::string xstate_words(uint64_t components) {
  return bit_words(components, kXstate, " ");
}

}  // namespace rfork::tools
