#include "base/io.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <memory>
#include <string_view>

#include "base/error.h"

namespace rfork {

namespace {

std::optional<std::string> read_to_end(int fd) {
  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::nullopt;
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace

UniqueFd try_open(const std::string& path, int flags, mode_t mode) {
  return try_open_at(AT_FDCWD, path, flags, mode);
}

UniqueFd try_open_at(int directory, const std::string& path, int flags, mode_t mode) {
  int fd;
  do {
    fd = ::openat(directory, path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return UniqueFd(fd);
}

UniqueFd open_or_throw(const std::string& path, int flags, mode_t mode) {
  UniqueFd fd = try_open(path, flags, mode);
  if (!fd) throw_errno("open", path);
  return fd;
}

size_t read_full(int fd, std::span<std::byte> buffer, std::string_view what) {
  size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t n = ::read(fd, buffer.data() + done, buffer.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("read", what);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

void write_full(int fd, std::span<const std::byte> data, std::string_view what) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("write", what);
    data = data.subspan(static_cast<size_t>(n));
  }
}

std::string read_file(const std::string& path) {
  const UniqueFd fd = open_or_throw(path, O_RDONLY);
  std::optional<std::string> text = read_to_end(fd.get());
  if (!text) throw_errno("read", path);
  return std::move(*text);
}

std::optional<std::string> try_read_file_at(int directory, const std::string& path) {
  const UniqueFd fd = try_open_at(directory, path, O_RDONLY);
  return fd ? read_to_end(fd.get()) : std::nullopt;
}

std::optional<std::string> try_read_link(const std::string& path) {
  char buffer[PATH_MAX];
  const ssize_t n = ::readlink(path.c_str(), buffer, sizeof buffer);
  if (n < 0) return std::nullopt;
  return std::string(buffer, static_cast<size_t>(n));
}

std::optional<std::vector<int>> try_list_numbers(const std::string& directory) {
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(directory.c_str()), ::closedir);
  if (!open) return std::nullopt;
  std::vector<int> numbers;
  while (const dirent* entry = ::readdir(open.get())) {
    const std::string_view name = entry->d_name;
    int number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error == std::errc() && end == name.data() + name.size()) numbers.push_back(number);
  }
  std::ranges::sort(numbers);
  return numbers;
}

UniqueFd make_memfd(const std::string& name, unsigned flags) {
  UniqueFd fd(::memfd_create(name.c_str(), flags | MFD_CLOEXEC));
  if (!fd) throw_errno("memfd_create", name);
  return fd;
}

std::pair<UniqueFd, UniqueFd> make_seqpacket_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) throw_errno("socketpair");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace rfork
