// What processes and threads have set, in the words of the man pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace rfork::tools {

std::string personality_words(uint64_t personality);
std::string clock_word(int64_t clock);
std::string interval_timer_word(size_t which);
std::string seccomp_mode_word(uint64_t mode);
std::string scheduling_policy_word(uint64_t policy);
std::string scheduling_flag_words(uint64_t flags);
/// `IOPRIO_CLASS_BE 4`.
std::string io_priority_words(uint64_t priority);
std::string securebits_words(uint64_t bits);
std::string notify_word(uint64_t notify);
std::string alt_stack_flag_words(uint64_t flags);
std::string speculation_words(uint64_t state);
std::string memory_failure_word(uint64_t mode);
std::string time_stamp_counter_word(uint64_t mode);
std::string membarrier_words(uint64_t commands);
std::string mdwe_words(uint64_t bits);
/// MMF_DUMP_* as core(5) describes them.
std::string dump_filter_words(uint64_t filter);
/// `PROT_READ|PROT_WRITE`.
std::string protection_words(uint64_t protection);
/// XSAVE components.
std::string xstate_words(uint64_t components);

}  // namespace rfork::tools
