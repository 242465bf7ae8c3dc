#include "tools/kernel_words.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <array>
#include <bit>
#include <csignal>
#include <cstring>
#include <ctime>
#include <span>

#include "base/text.h"
#include "image/model.h"
#include "tools/words.h"

namespace rfork::tools {

namespace {

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
    {SA_NODEFER, "SA_NODEFER"},     {0x80000000u, "SA_RESETHAND"},  {0x400, "SA_UNSUPPORTED"},
    {0x800, "SA_EXPOSE_TAGBITS"},
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
    {Mapping::droppable, "MAP_DROPPABLE"},
};

}  // namespace

std::string bit_words(uint64_t flags, std::span<const Word> words, const char* between) {
  std::string text;
  const auto add = [&](const std::string& word) { text += (text.empty() ? "" : between) + word; };
  for (const Word& word : words) {
    if ((flags & word.value) != word.value) continue;
    add(word.name);
    flags &= ~word.value;
  }
  if (flags != 0) add(fmt::format("{:#x}", flags));
  return text;
}

std::string value_word(uint64_t value, std::span<const Word> words) {
  for (const Word& word : words) {
    if (word.value == value) return word.name;
  }
  return fmt::format("{:#x}", value);
}

std::string signal_set_words(uint64_t set) {
  constexpr uint64_t kNeverBlocked = 1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1);
  const uint64_t others = ~set & ~kNeverBlocked;
  if (others == 0) return "all";
  if (std::popcount(set) > 32) return "all but " + signal_set_words(others);
  std::string text;
  for (int signal = 1; signal <= 64; ++signal) {
    if ((set >> (signal - 1) & 1) != 0) text += (text.empty() ? "" : " ") + signal_word(signal);
  }
  return text;
}

std::string action_flag_words(uint64_t flags) {
  return bit_words(flags, kActionFlags);
}

std::string open_flag_words(int32_t flags) {
  constexpr std::array kModes{"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"};
  std::string text = kModes[static_cast<size_t>(flags & O_ACCMODE)];
  const std::string rest = bit_words(static_cast<uint32_t>(flags & ~O_ACCMODE), kOpenFlags, "|");
  return rest.empty() ? text : text + "|" + rest;
}

std::string protection_word(uint32_t protection, bool shared) {
  return {(protection & PROT_READ) != 0 ? 'r' : '-', (protection & PROT_WRITE) != 0 ? 'w' : '-',
          (protection & PROT_EXEC) != 0 ? 'x' : '-', shared ? 's' : 'p'};
}

std::string advice_words(uint32_t advice) {
  return bit_words(advice, kAdvice, " ");
}

std::string limit_word(size_t limit) {
  constexpr std::array kNames{"CPU",      "FSIZE",  "DATA",    "STACK", "CORE",  "RSS",
                              "NPROC",    "NOFILE", "MEMLOCK", "AS",    "LOCKS", "SIGPENDING",
                              "MSGQUEUE", "NICE",   "RTPRIO",  "RTTIME"};
  return limit < kNames.size() ? fmt::format("RLIMIT_{}", kNames[limit])
                               : fmt::format("limit {}", limit);
}

std::string utc_words(int64_t realtime_ns) {
  const time_t seconds = realtime_ns / 1'000'000'000;
  std::tm broken{};
  if (::gmtime_r(&seconds, &broken) == nullptr) return "at an unknown time";
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", broken);
}

std::string duration_words(int64_t nanoseconds) {
  if (nanoseconds >= 0 && nanoseconds < 1000) return fmt::format("{} ns", nanoseconds);
  if (nanoseconds >= 0 && nanoseconds < 100'000)
    return fmt::format("{:g} µs", static_cast<double>(nanoseconds) / 1000);
  if (nanoseconds >= 0) return human_duration_ns(nanoseconds);
  return "-" + duration_words(nanoseconds == INT64_MIN ? INT64_MAX : -nanoseconds);
}

std::string map_flag_words(bool shared, bool grows_down, bool no_reserve, uint64_t huge_page_size) {
  std::string text = shared ? "MAP_SHARED" : "MAP_PRIVATE";
  if (grows_down) text += "|MAP_GROWSDOWN";
  if (no_reserve) text += "|MAP_NORESERVE";
  if (huge_page_size != 0) text += fmt::format("|MAP_HUGETLB of {}", human_bytes(huge_page_size));
  return text;
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
