// What descriptors hold, in the words of the man pages.
#pragma once

#include <cstdint>
#include <string>

namespace rfork::tools {

std::string epoll_event_words(uint64_t events);
std::string inotify_mask_words(uint64_t mask);
/// Of fanotify_init(2), fanotify_mark(2) and of events.
std::string fanotify_flag_words(uint64_t flags);
std::string fanotify_mark_flag_words(uint64_t flags);
std::string fanotify_mask_words(uint64_t mask);
std::string seal_words(uint64_t seals);
std::string timer_fd_flag_words(uint64_t flags);
/// `S_IFREG|0644`; without a type only the permissions.
std::string file_mode_words(uint64_t mode);
std::string shutdown_words(uint64_t shut);
std::string line_discipline_word(uint64_t discipline);
std::string owner_type_word(uint64_t type);
std::string socket_family_word(uint64_t family);
std::string socket_type_word(uint64_t type);

}  // namespace rfork::tools
