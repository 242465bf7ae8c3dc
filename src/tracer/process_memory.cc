#include "tracer/process_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/io.h"

namespace rfork::tracer {

ProcessMemory::ProcessMemory(pid_t pid) : pid_(pid) {
  const std::string path = fmt::format("/proc/{}/mem", pid);
  mem_ = try_open(path, O_RDWR);
  if (!mem_) mem_ = open_or_throw(path, O_RDONLY);
}

bool ProcessMemory::try_read(uint64_t address, std::span<std::byte> buffer) const {
  while (!buffer.empty()) {
    const ssize_t n =
        ::pread(mem_.get(), buffer.data(), buffer.size(), static_cast<off_t>(address));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;
    if (n <= 0) return false;
    buffer = buffer.subspan(static_cast<size_t>(n));
    address += static_cast<uint64_t>(n);
  }
  return true;
}

void ProcessMemory::read(uint64_t address, std::span<std::byte> buffer) const {
  if (try_read(address, buffer)) return;
  if (errno == ESRCH) throw ProcessGone(pid_);
  throw_errno("read memory", fmt::format("of {} at {:#x}", pid_, address));
}

bool ProcessMemory::try_write(uint64_t address, std::span<const std::byte> data) const {
  while (!data.empty()) {
    const ssize_t n = ::pwrite(mem_.get(), data.data(), data.size(), static_cast<off_t>(address));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data = data.subspan(static_cast<size_t>(n));
    address += static_cast<uint64_t>(n);
  }
  return true;
}

}  // namespace rfork::tracer
