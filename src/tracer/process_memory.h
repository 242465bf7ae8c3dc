// Another process's memory, read and written.
//
// All of it goes through /proc/PID/mem, which a tracer may use whatever a page's protection says.
// process_vm_readv(2) pins the pages that it reads: of a page that a fork still shares, the kernel
// first makes a copy for the process that is only looked at (since Linux 5.19, "unsharing"), which
// doubles the memory of a snapshot and takes three times as long. Faster, for a forked copy:
// page_pipe.h.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace rfork::tracer {

class ProcessMemory {
 public:
  /// Opens /proc/`pid`/mem. Throws Error, and as read() does ProcessGone.
  explicit ProcessMemory(pid_t pid);

  /// Reads all of `buffer` at `address`; short reads are continued. Throws Error with the address.
  void read(uint64_t address, std::span<std::byte> buffer) const;
  /// The same; false when any of it can't be read.
  bool try_read(uint64_t address, std::span<std::byte> buffer) const;
  /// Writes all, read-only pages included (a private copy is made of them). False on failure.
  bool try_write(uint64_t address, std::span<const std::byte> data) const;

  template <typename T>
  T read_value(uint64_t address) const {
    T value;
    read(address, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  template <typename T>
  bool try_read_value(uint64_t address, T& value) const {
    return try_read(address, std::as_writable_bytes(std::span(&value, 1)));
  }

  pid_t pid() const { return pid_; }

 private:
  [[noreturn]] void fail(std::string_view call, const std::string& subject) const;

  pid_t pid_;
  UniqueFd mem_;
};

}  // namespace rfork::tracer
