#include "session/waiting_readers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/io.h"
#include "tracer/process_state.h"

namespace rfork::session {

namespace {

/// Of a thread, as /proc/PID/task/TID/syscall shows it.
struct Call {
  long number = -1;  ///< of a system call; -1: in none
  std::array<unsigned long, 6> arguments{};
};

Call parse_call(const std::string& text) {
  Call call;
  char* rest = nullptr;
  call.number = std::strtol(text.c_str(), &rest, 10);
  if (rest == text.c_str()) call.number = -1;  // "running"
  for (unsigned long& argument : call.arguments) argument = std::strtoul(rest, &rest, 16);
  return call;
}

bool leads_to(const std::string& entry, uint64_t inode) {
  struct stat status {};
  return ::stat(entry.c_str(), &status) == 0 && status.st_ino == inode;
}

/// `size` bytes of a process's memory; nullopt when they can't be read.
std::optional<Bytes> memory_of(pid_t pid, unsigned long address, size_t size) {
  Bytes bytes(size);
  iovec here{bytes.data(), size}, there{reinterpret_cast<void*>(address), size};
  if (::process_vm_readv(pid, &here, 1, &there, 1, 0) != static_cast<ssize_t>(size)) {
    return std::nullopt;
  }
  return bytes;
}

/// Each of these: whether the thread may be waiting to read what has this inode.
bool polls(pid_t pid, const Call& call, uint64_t inode) {
  constexpr size_t kMost = 4096;
  const size_t count = std::min<size_t>(call.arguments[1], kMost);
  const auto memory = memory_of(pid, call.arguments[0], count * sizeof(pollfd));
  if (!memory) return true;
  for (size_t i = 0; i < count; ++i) {
    pollfd entry{};
    std::memcpy(&entry, memory->data() + i * sizeof entry, sizeof entry);
    if ((entry.events & (POLLIN | POLLRDNORM)) == 0) continue;
    if (leads_to(fmt::format("/proc/{}/fd/{}", pid, entry.fd), inode)) return true;
  }
  return false;
}

bool selects(pid_t pid, const Call& call, uint64_t inode) {
  const size_t count = std::min<size_t>(call.arguments[0], FD_SETSIZE);
  if (call.arguments[1] == 0 || count == 0) return false;
  const auto memory = memory_of(pid, call.arguments[1], (count + 7) / 8);
  if (!memory) return true;
  for (size_t fd = 0; fd < count; ++fd) {
    if ((std::to_integer<unsigned>((*memory)[fd / 8]) >> (fd % 8) & 1) == 0) continue;
    if (leads_to(fmt::format("/proc/{}/fd/{}", pid, fd), inode)) return true;
  }
  return false;
}

bool watches(pid_t pid, const Call& call, uint64_t inode) {
  const auto info =
      try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/fdinfo/{}", pid, call.arguments[0]));
  return !info || info->find(fmt::format(" ino:{:x} ", inode)) != std::string::npos;
}

size_t bytes_wanted_by(pid_t pid, const Call& call, uint64_t inode) {
  size_t bytes = kSomeBytes;
  switch (call.number) {
    case SYS_poll:
    case SYS_ppoll:
      return polls(pid, call, inode) ? kSomeBytes : 0;
    case SYS_select:
    case SYS_pselect6:
      return selects(pid, call, inode) ? kSomeBytes : 0;
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
      return watches(pid, call, inode) ? kSomeBytes : 0;
    case SYS_io_uring_enter:
      return kSomeBytes;
    case SYS_read:
    case SYS_recvfrom:
      bytes = call.arguments[2];
      break;
    case SYS_readv:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_splice:
    case SYS_tee:
      break;
    default:
      return 0;
  }
  return leads_to(fmt::format("/proc/{}/fd/{}", pid, call.arguments[0]), inode) ? bytes : 0;
}

size_t bytes_wanted_by_thread(pid_t pid, int tid, uint64_t inode) {
  const std::string task = fmt::format("/proc/{}/task/{}/", pid, tid);
  const auto call = try_read_file_at(AT_FDCWD, task + "syscall");
  // One that is ending doesn't read, and no one but root may ask what else it does.
  if (!call) return tracer::is_ending(task) ? 0 : kSomeBytes;
  return bytes_wanted_by(pid, parse_call(*call), inode);
}

std::vector<int> numbers_in(const std::string& directory) {
  return try_list_numbers(directory).value_or(std::vector<int>());
}

enum class Has { nothing, blocking, non_blocking };

/// What this process has of the inode to read from.
Has reading_end(const std::string& directory, uint64_t inode) {
  for (const int fd : numbers_in(directory + "fd")) {
    if (!leads_to(fmt::format("{}fd/{}", directory, fd), inode)) continue;
    const auto info = try_read_file_at(AT_FDCWD, fmt::format("{}fdinfo/{}", directory, fd));
    const size_t at = info ? info->find("flags:") : std::string::npos;
    if (at == std::string::npos) continue;
    const unsigned long flags = std::strtoul(info->c_str() + at + 6, nullptr, 8);
    if ((flags & O_ACCMODE) == O_WRONLY) continue;
    return (flags & O_NONBLOCK) != 0 ? Has::non_blocking : Has::blocking;
  }
  return Has::nothing;
}

}  // namespace

size_t bytes_wanted(pid_t pid, uint64_t inode) {
  const std::string directory = fmt::format("/proc/{}/", pid);
  if (reading_end(directory, inode) == Has::non_blocking) return kSomeBytes;
  for (const int tid : numbers_in(directory + "task")) {
    if (const size_t bytes = bytes_wanted_by_thread(pid, tid, inode)) return bytes;
    const auto children =
        try_read_file_at(AT_FDCWD, fmt::format("{}task/{}/children", directory, tid));
    const char* at = children ? children->c_str() : "";
    for (char* end = nullptr; const long child = std::strtol(at, &end, 10); at = end) {
      if (const size_t bytes = bytes_wanted(static_cast<pid_t>(child), inode)) return bytes;
    }
  }
  return 0;
}

size_t bytes_wanted_by_holders(uint64_t inode) {
  for (const int pid : numbers_in("/proc")) {
    const std::string directory = fmt::format("/proc/{}/", pid);
    if (pid == ::getpid()) continue;
    const Has has = reading_end(directory, inode);
    if (has == Has::nothing) continue;
    if (has == Has::non_blocking) return kSomeBytes;
    for (const int tid : numbers_in(directory + "task")) {
      if (const size_t bytes = bytes_wanted_by_thread(pid, tid, inode)) return bytes;
    }
  }
  return 0;
}

}  // namespace rfork::session
