// The page data of an image, as it comes through the ring of slots: into memory, into files, away.
#pragma once

#include <stdint.h>

#include "plan.h"

namespace rfork::stub {

using namespace loader::plan;  // NOLINT: the stub is nothing but this ABI

inline constexpr uint64_t kPage = 4096;

struct Stream {
  // What is left of the slot that is being emptied.
  uint64_t address = 0;
  uint64_t left = 0;
  uint32_t slot = 0;
  long placer = -1;  ///< of userfaultfd(2), between start_placing() and end_placing()
};

inline void copy_bytes(uint64_t to, uint64_t from, uint64_t size) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

/// New pages are cleared by whoever touches them first, which takes longer than to copy into them.
/// A userfaultfd makes a page of the bytes that are to be in it: in half the time of both. Where it
/// can't be had (some containers forbid it) the pages are cleared and filled.
void start_placing(Stream& stream);
void end_placing(Stream& stream);

/// The next `left` bytes of the stream; 0, or -errno. They end the process when the loader is gone.
/// `absent`: they are pages of private anonymous memory that aren't there yet, and come in slots of
/// whole pages.
long data_to_memory(Header* header, Stream& stream, uint64_t address, uint64_t left, bool absent);
long data_to_file(Header* header, Stream& stream, uint64_t fd, uint64_t offset, uint64_t left);
void data_skip(Header* header, Stream& stream, uint64_t left);

}  // namespace rfork::stub
