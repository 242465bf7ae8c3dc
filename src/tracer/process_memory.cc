#include "tracer/process_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/io.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

ProcessMemory::ProcessMemory(pid_t pid) : pid_(pid) {
  const std::string path = fmt::format("/proc/{}/mem", pid);
  mem_ = try_open(path, O_RDWR);
  if (!mem_) mem_ = try_open(path, O_RDONLY);
  if (!mem_) fail("open", path);
}

// What the kernel says of the memory of a process that has ended differs: ESRCH, EACCES, nothing.
void ProcessMemory::fail(std::string_view call, const std::string& subject) const {
  const int error = errno;
  const auto stat = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/stat", pid_));
  const std::string state = stat ? parse_stat_fields(*stat).front() : "X";
  if (error == ESRCH || state == "Z" || state == "X") throw ProcessGone(pid_);
  throw Error(call, error, subject);
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
  fail("read memory", fmt::format("of {} at {:#x}", pid_, address));
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
