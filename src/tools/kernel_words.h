// The kernel's flags in the words of the man pages.
#pragma once

#include <cstdint>
#include <string>

#include "image/signal_word.h"

namespace rfork::tools {

using image::signal_word;

/// `SIGINT SIGTERM`, `all but SIGSEGV`, `all`; empty for the empty set.
std::string signal_set_words(uint64_t set);
/// `SA_RESTART|SA_SIGINFO`.
std::string action_flag_words(uint64_t flags);
/// `O_RDWR|O_APPEND`, of fcntl(F_GETFL).
std::string open_flag_words(int32_t flags);
/// `rw-p`.
std::string protection_word(uint32_t protection, bool shared);
/// `MADV_HUGEPAGE MLOCK`, of Mapping::advice.
std::string advice_words(uint32_t advice);
/// `RLIMIT_NOFILE`.
std::string limit_word(size_t limit);
/// `2026-11-21 05:58:46 UTC` of nanoseconds of CLOCK_REALTIME.
std::string utc_words(int64_t realtime_ns);
/// As human_duration_ns(), of times before zero too.
std::string duration_words(int64_t nanoseconds);
/// `MAP_SHARED|MAP_NORESERVE`.
std::string map_flag_words(bool shared, bool grows_down, bool no_reserve, uint64_t huge_page_size);
/// An argument as a shell takes it: quoted where it must be, without control characters.
std::string shell_word(const std::string& argument);
/// Text from an image without what a terminal would act upon.
std::string plain(const std::string& text);

}  // namespace rfork::tools
