// Whole reads and writes over the kernel's short ones, and the few ways this project opens things.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace rfork {

using Bytes = std::vector<std::byte>;

/// open(2) with O_CLOEXEC. Throws Error with the path.
UniqueFd open_or_throw(const std::string& path, int flags, mode_t mode = 0);
/// The same, but an empty UniqueFd (errno set) when it can't be opened.
UniqueFd try_open(const std::string& path, int flags, mode_t mode = 0);
/// openat(2) with O_CLOEXEC, below a directory descriptor. Empty with errno set when it can't be
/// opened.
UniqueFd try_open_at(int directory, const std::string& path, int flags, mode_t mode = 0);

/// Reads until `buffer` is full or the end of file; gives the number of bytes read. Retries EINTR.
/// Throws Error(`what`).
size_t read_full(int fd, std::span<std::byte> buffer, std::string_view what);
/// Writes all of it. Retries EINTR; throws Error(`what`) (EPIPE included; SIGPIPE is the caller's).
void write_full(int fd, std::span<const std::byte> data, std::string_view what);
/// Reads all of a (small) file such as those in /proc. Throws Error with the path.
std::string read_file(const std::string& path);
/// The same below a directory descriptor; nullopt when it can't be opened or read (errno set).
std::optional<std::string> try_read_file_at(int directory, const std::string& path);
/// readlink(2); nullopt with errno set on failure.
std::optional<std::string> try_read_link(const std::string& path);
/// The entries of a directory that are numbers (/proc, task, fd), in order; nullopt with errno set
/// on failure.
std::optional<std::vector<int>> try_list_numbers(const std::string& directory);
/// An anonymous file in memory that is close-on-exec.
UniqueFd make_memfd(const std::string& name, unsigned flags = 0);
/// A connected pair of SOCK_SEQPACKET sockets, close-on-exec.
std::pair<UniqueFd, UniqueFd> make_seqpacket_pair();

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace rfork
