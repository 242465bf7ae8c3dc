#include "tracer/process_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <vector>

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
    iovec local{buffer.data(), buffer.size()};
    iovec remote{reinterpret_cast<void*>(address), buffer.size()};
    ssize_t n = ::process_vm_readv(pid_, &local, 1, &remote, 1, 0);
    if (n <= 0) {
      // Page by page, so that the fast way is taken again behind a protected range.
      const size_t to_page_end = 4096 - address % 4096;
      n = ::pread(mem_.get(), buffer.data(), std::min(buffer.size(), to_page_end),
                  static_cast<off_t>(address));
    }
    if (n <= 0) {
      if (n == 0) errno = EIO;
      return false;
    }
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

bool ProcessMemory::sample(std::span<const uint64_t> pages, size_t sample_size,
                           std::span<std::byte> samples) const {
  std::vector<iovec> remote;
  remote.reserve(std::min<size_t>(pages.size(), IOV_MAX));
  while (!pages.empty()) {
    const size_t count = std::min<size_t>(pages.size(), IOV_MAX);
    remote.clear();
    for (const uint64_t page : pages.first(count)) {
      remote.push_back({reinterpret_cast<void*>(page), sample_size});
    }
    iovec local{samples.data(), count * sample_size};
    const ssize_t n = ::process_vm_readv(pid_, &local, 1, remote.data(), count, 0);
    if (n != static_cast<ssize_t>(count * sample_size)) return false;
    samples = samples.subspan(count * sample_size);
    pages = pages.subspan(count);
  }
  return true;
}

}  // namespace rfork::tracer
