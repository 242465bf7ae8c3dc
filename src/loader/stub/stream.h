// The page data of an image, as it comes through the ring of slots: into memory, into files, away.
#pragma once

#include <stdint.h>

#include "plan.h"

namespace rfork::stub {

using namespace loader::plan;  // NOLINT: the stub is nothing but this ABI

inline constexpr uint64_t kPage = 4096;

/// What is left of the slot that is being emptied.
struct Stream {
  uint64_t address = 0;
  uint64_t left = 0;
  uint32_t slot = 0;
};

inline void copy_bytes(uint64_t to, uint64_t from, uint64_t size) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

/// The next `left` bytes of the stream. They end the process when the loader is gone.
void data_to_memory(Header* header, Stream& stream, uint64_t address, uint64_t left);
/// 0, or -errno of the write.
long data_to_file(Header* header, Stream& stream, uint64_t fd, uint64_t offset, uint64_t left);
void data_skip(Header* header, Stream& stream, uint64_t left);

/// New pages are cleared by whoever touches them first, which takes longer than to copy into them,
/// and much longer in a virtual machine that has to be given them by its host. A second processor
/// does it ahead of the copy, in a process that shares the memory and starts here.
void populate_entry(void* header, uint64_t first, uint64_t count);

}  // namespace rfork::stub
