// The kernel's flags in the words of the man pages.
#pragma once

#include <cstdint>
#include <string>

namespace rfork::tools {

/// `SIGUSR1`, `SIGRTMIN+2`.
std::string signal_word(int signal);
/// `SIGINT SIGTERM`, empty for the empty set.
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
/// `CLOCK_MONOTONIC`, of PosixTimer::clock.
std::string clock_word(int32_t clock);
/// `SIGEV_THREAD_ID`.
std::string notify_word(int32_t notify);
/// `SCHED_FIFO`.
std::string policy_word(int32_t policy);
/// `IOPRIO_CLASS_BE 4`, of ioprio_get(2).
std::string io_priority_word(int32_t priority);
/// `SECBIT_NOROOT|SECBIT_KEEP_CAPS`.
std::string securebits_words(uint32_t bits);
/// An argument as a shell takes it: quoted where it must be, without control characters.
std::string shell_word(const std::string& argument);
/// Text from an image without what a terminal would act upon.
std::string plain(const std::string& text);

}  // namespace rfork::tools
