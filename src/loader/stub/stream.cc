#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>

#include "syscall_x86_64.h"
#include "talk.h"

namespace rfork::stub {

namespace {

/// Gives some bytes of the stream, at most `want`; the caller has used them when it asks again.
uint64_t take_stream(Header* header, Stream& stream, uint64_t want, uint64_t* size) {
  while (stream.left == 0) {
    const Message message = receive(header);
    if (message.kind != MessageKind::data || message.slot >= kSlots || message.length > kSlotSize) {
      fail(header, header->current_op, -EPROTO);
    }
    stream.slot = message.slot;
    stream.address = header->ring_address + message.slot * kSlotSize;
    stream.left = message.length;
  }
  *size = want < stream.left ? want : stream.left;
  const uint64_t address = stream.address;
  stream.address += *size;
  stream.left -= *size;
  return address;
}

void free_empty_slot(Header* header, Stream& stream) {
  if (stream.left == 0) {
    send_message(header, MessageKind::slot_free, 0, 0, stream.slot);
  }
}

/// All page faults of a copy at once; where it can't be, the copy takes them one by one. Not worth
/// a system call for a few pages.
void populate(uint64_t address, uint64_t size) {
  constexpr uint64_t kPopulateWrite = 23;  // MADV_POPULATE_WRITE
  if (size < 8 * kPage) return;
  const uint64_t start = address & ~(kPage - 1);
  system_call(SYS_madvise, start, (address + size - start + kPage - 1) & ~(kPage - 1),
              kPopulateWrite);
}

long control(long fd, uint64_t request, void* argument) {
  return system_call(SYS_ioctl, static_cast<uint64_t>(fd), request,
                     reinterpret_cast<uint64_t>(argument));
}

bool place(long placer, uint64_t address, uint64_t from, uint64_t size) {
  while (size > 0) {
    uffdio_copy copy{};
    copy.dst = address;
    copy.src = from;
    copy.len = size;
    control(placer, UFFDIO_COPY, &copy);
    if (copy.copy <= 0) return false;
    const auto placed = static_cast<uint64_t>(copy.copy);
    address += placed;
    from += placed;
    size -= placed;
  }
  return true;
}

/// A registered range: a touch of a page that isn't there would wait for ever, so that until the
/// end nothing may be done with it but place().
class Absent {
 public:
  Absent(long placer, uint64_t address, uint64_t size) : placer_(placer), range_{address, size} {
    uffdio_register wanted{};
    wanted.range = range_;
    wanted.mode = UFFDIO_REGISTER_MODE_MISSING;
    registered_ = placer_ >= 0 && control(placer_, UFFDIO_REGISTER, &wanted) == 0;
  }
  bool registered() const { return registered_; }
  /// 0, or -errno.
  long end() {
    if (!registered_) return 0;
    registered_ = false;
    return control(placer_, UFFDIO_UNREGISTER, &range_);
  }

 private:
  long placer_;
  uffdio_range range_;
  bool registered_;
};

}  // namespace

void start_placing(Stream& stream) {
  stream.placer =
      system_call(SYS_userfaultfd, static_cast<uint64_t>(O_CLOEXEC) | UFFD_USER_MODE_ONLY);
  uffdio_api api{};
  api.api = UFFD_API;
  if (stream.placer >= 0 && control(stream.placer, UFFDIO_API, &api) != 0) end_placing(stream);
}

void end_placing(Stream& stream) {
  if (stream.placer >= 0) system_call(SYS_close, static_cast<uint64_t>(stream.placer));
  stream.placer = -1;
}

long data_to_memory(Header* header, Stream& stream, uint64_t address, uint64_t left, bool absent) {
  Absent pages(absent ? stream.placer : -1, address, left);
  while (left > 0) {
    uint64_t size;
    const uint64_t from = take_stream(header, stream, left, &size);
    if (!pages.registered() || !place(stream.placer, address, from, size)) {
      if (const long error = pages.end(); error != 0) return error;
      populate(address, size);
      copy_bytes(address, from, size);
    }
    free_empty_slot(header, stream);
    address += size;
    left -= size;
  }
  return pages.end();
}

long data_to_file(Header* header, Stream& stream, uint64_t fd, uint64_t offset, uint64_t left) {
  while (left > 0) {
    uint64_t size;
    uint64_t from = take_stream(header, stream, left, &size);
    left -= size;
    while (size > 0) {
      const long written = system_call(SYS_pwrite64, fd, from, size, offset);
      if (written == -EINTR) continue;
      if (written == 0) return -ENOSPC;
      if (written < 0) return written;
      from += static_cast<uint64_t>(written);
      offset += static_cast<uint64_t>(written);
      size -= static_cast<uint64_t>(written);
    }
    free_empty_slot(header, stream);
  }
  return 0;
}

void data_skip(Header* header, Stream& stream, uint64_t left) {
  while (left > 0) {
    uint64_t size;
    take_stream(header, stream, left, &size);
    free_empty_slot(header, stream);
    left -= size;
  }
}

}  // namespace rfork::stub
