#include "tools/kernel_words.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <array>
#include <csignal>
#include <cstring>
#include <span>

#include "image/model.h"

namespace rfork::tools {

namespace {

struct Word {
  uint64_t bit;
  const char* name;
};

/// The names of the bits that are set; what has no name as a number.
std::string words_of(uint64_t flags, std::span<const Word> words, const char* between) {
  std::string text;
  const auto add = [&](const std::string& word) { text += (text.empty() ? "" : between) + word; };
  for (const Word& word : words) {
    if ((flags & word.bit) != word.bit) continue;
    add(word.name);
    flags &= ~word.bit;
  }
  if (flags != 0) add(fmt::format("{:#x}", flags));
  return text;
}

// O_SYNC contains O_DSYNC, O_TMPFILE contains O_DIRECTORY: the larger first.
constexpr Word kOpenFlags[] = {
    {O_APPEND, "O_APPEND"},     {O_NONBLOCK, "O_NONBLOCK"}, {O_SYNC, "O_SYNC"},
    {O_DSYNC, "O_DSYNC"},       {O_ASYNC, "O_ASYNC"},       {O_DIRECT, "O_DIRECT"},
    {0100000, "O_LARGEFILE"},   {O_TMPFILE, "O_TMPFILE"},   {O_DIRECTORY, "O_DIRECTORY"},
    {O_NOFOLLOW, "O_NOFOLLOW"}, {O_NOATIME, "O_NOATIME"},   {O_PATH, "O_PATH"},
};

constexpr Word kActionFlags[] = {
    {SA_NOCLDSTOP, "SA_NOCLDSTOP"}, {SA_NOCLDWAIT, "SA_NOCLDWAIT"}, {SA_SIGINFO, "SA_SIGINFO"},
    {0x04000000, "SA_RESTORER"},    {SA_ONSTACK, "SA_ONSTACK"},     {SA_RESTART, "SA_RESTART"},
    {SA_NODEFER, "SA_NODEFER"},     {0x80000000u, "SA_RESETHAND"},
};

using image::Mapping;
constexpr Word kAdvice[] = {
    {Mapping::dont_fork, "MADV_DONTFORK"},
    {Mapping::wipe_on_fork, "MADV_WIPEONFORK"},
    {Mapping::dont_dump, "MADV_DONTDUMP"},
    {Mapping::huge_page, "MADV_HUGEPAGE"},
    {Mapping::no_huge_page, "MADV_NOHUGEPAGE"},
    {Mapping::mergeable, "MADV_MERGEABLE"},
    {Mapping::sequential, "MADV_SEQUENTIAL"},
    {Mapping::random, "MADV_RANDOM"},
    {Mapping::locked, "mlock"},
    {Mapping::lock_on_fault, "MLOCK_ONFAULT"},
};

constexpr Word kSecurebits[] = {
    {1 << 0, "SECBIT_NOROOT"},
    {1 << 1, "SECBIT_NOROOT_LOCKED"},
    {1 << 2, "SECBIT_NO_SETUID_FIXUP"},
    {1 << 3, "SECBIT_NO_SETUID_FIXUP_LOCKED"},
    {1 << 4, "SECBIT_KEEP_CAPS"},
    {1 << 5, "SECBIT_KEEP_CAPS_LOCKED"},
    {1 << 6, "SECBIT_NO_CAP_AMBIENT_RAISE"},
    {1 << 7, "SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED"},
};

/// The name of `number`, or `prefix` and the number.
std::string name_or_number(std::span<const char* const> names, int32_t number, const char* prefix) {
  const auto index = static_cast<size_t>(number);
  if (number >= 0 && index < names.size() && names[index] != nullptr) return names[index];
  return fmt::format("{} {}", prefix, number);
}

}  // namespace

std::string clock_word(int32_t clock) {
  // Those of CPU time, as the kernel numbers "this" process's and thread's: -8 to -6 and -4 to -2
  // (include/linux/posix-timers_types.h).
  constexpr std::array kProcess{"process's CPU time", "process's user time",
                                "CLOCK_PROCESS_CPUTIME_ID"};
  constexpr std::array kThread{"thread's CPU time", "thread's user time",
                               "CLOCK_THREAD_CPUTIME_ID"};
  if (clock >= -8 && clock <= -6) return kProcess[static_cast<size_t>(clock + 8)];
  if (clock >= -4 && clock <= -2) return kThread[static_cast<size_t>(clock + 4)];
  constexpr const char* kNames[] = {"CLOCK_REALTIME",
                                    "CLOCK_MONOTONIC",
                                    "CLOCK_PROCESS_CPUTIME_ID",
                                    "CLOCK_THREAD_CPUTIME_ID",
                                    "CLOCK_MONOTONIC_RAW",
                                    "CLOCK_REALTIME_COARSE",
                                    "CLOCK_MONOTONIC_COARSE",
                                    "CLOCK_BOOTTIME",
                                    "CLOCK_REALTIME_ALARM",
                                    "CLOCK_BOOTTIME_ALARM",
                                    nullptr,
                                    "CLOCK_TAI"};
  return name_or_number(kNames, clock, "clock");
}

std::string notify_word(int32_t notify) {
  constexpr const char* kNames[] = {"SIGEV_SIGNAL", "SIGEV_NONE", "SIGEV_THREAD", nullptr,
                                    "SIGEV_THREAD_ID"};
  return name_or_number(kNames, notify, "SIGEV");
}

std::string policy_word(int32_t policy) {
  constexpr const char* kNames[] = {"SCHED_OTHER", "SCHED_FIFO", "SCHED_RR",       "SCHED_BATCH",
                                    nullptr,       "SCHED_IDLE", "SCHED_DEADLINE", "SCHED_EXT"};
  return name_or_number(kNames, policy, "policy");
}

std::string io_priority_word(int32_t priority) {
  constexpr const char* kNames[] = {"IOPRIO_CLASS_NONE", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE",
                                    "IOPRIO_CLASS_IDLE"};
  constexpr int kClassShift = 13;
  return fmt::format("{} {}", name_or_number(kNames, priority >> kClassShift, "I/O class"),
                     priority & ((1 << kClassShift) - 1));
}

std::string securebits_words(uint32_t bits) {
  return words_of(bits, kSecurebits, "|");
}

std::string signal_word(int signal) {
  // The kernel's first real-time signal is 32; libc keeps two for itself and calls 34 SIGRTMIN.
  if (signal >= 34 && signal <= 64) {
    return signal == 34 ? "SIGRTMIN" : fmt::format("SIGRTMIN+{}", signal - 34);
  }
  const char* name = signal > 0 ? ::sigabbrev_np(signal) : nullptr;
  return name == nullptr ? fmt::format("signal {}", signal) : fmt::format("SIG{}", name);
}

std::string signal_set_words(uint64_t set) {
  std::string text;
  for (int signal = 1; signal <= 64; ++signal) {
    if ((set >> (signal - 1) & 1) != 0) text += (text.empty() ? "" : " ") + signal_word(signal);
  }
  return text;
}

std::string action_flag_words(uint64_t flags) {
  return words_of(flags, kActionFlags, "|");
}

std::string open_flag_words(int32_t flags) {
  constexpr std::array kModes{"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"};
  std::string text = kModes[static_cast<size_t>(flags & O_ACCMODE)];
  const std::string rest = words_of(static_cast<uint32_t>(flags & ~O_ACCMODE), kOpenFlags, "|");
  return rest.empty() ? text : text + "|" + rest;
}

std::string protection_word(uint32_t protection, bool shared) {
  return {(protection & PROT_READ) != 0 ? 'r' : '-', (protection & PROT_WRITE) != 0 ? 'w' : '-',
          (protection & PROT_EXEC) != 0 ? 'x' : '-', shared ? 's' : 'p'};
}

std::string advice_words(uint32_t advice) {
  return words_of(advice, kAdvice, " ");
}

std::string limit_word(size_t limit) {
  constexpr std::array kNames{"CPU",      "FSIZE",  "DATA",    "STACK", "CORE",  "RSS",
                              "NPROC",    "NOFILE", "MEMLOCK", "AS",    "LOCKS", "SIGPENDING",
                              "MSGQUEUE", "NICE",   "RTPRIO",  "RTTIME"};
  return limit < kNames.size() ? fmt::format("RLIMIT_{}", kNames[limit])
                               : fmt::format("limit {}", limit);
}

std::string plain(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    // U+0080 to U+009F are control characters too: some terminals take U+009B for an escape.
    const bool c1 = byte == 0xc2 && next >= 0x80 && next < 0xa0;
    if (byte < 0x20 || byte == 0x7f || c1) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string shell_word(const std::string& argument) {
  constexpr const char* kHarmless =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!argument.empty() && argument.find_first_not_of(kHarmless) == std::string::npos) {
    return argument;
  }
  std::string out = "'";
  for (const char c : plain(argument)) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

}  // namespace rfork::tools
