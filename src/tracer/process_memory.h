// Another process's memory, read and written.
//
// process_vm_readv(2) is the fast way; it honours page protections, so what is PROT_NONE or
// write-only is read through /proc/PID/mem, which a tracer may use whatever the protection says.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/unique_fd.h"

namespace rfork::tracer {

class ProcessMemory {
 public:
  /// Opens /proc/`pid`/mem. Throws Error.
  explicit ProcessMemory(pid_t pid);

  /// Reads all of `buffer` at `address`; short reads are continued. Throws Error with the address.
  void read(uint64_t address, std::span<std::byte> buffer) const;
  /// The same; false when any of it can't be read.
  bool try_read(uint64_t address, std::span<std::byte> buffer) const;
  /// Writes all, read-only pages included (a private copy is made of them). False on failure.
  bool try_write(uint64_t address, std::span<const std::byte> data) const;
  /// Reads the first bytes of each of `pages` (addresses) into `samples`, sample_size bytes each,
  /// with few calls. False when any can't be read this way.
  bool sample(std::span<const uint64_t> pages, size_t sample_size,
              std::span<std::byte> samples) const;

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
  pid_t pid_;
  UniqueFd mem_;
};

}  // namespace rfork::tracer
