// What the stub and the loader say to each other, on the stub's side.
#pragma once

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "plan.h"
#include "segments.h"
#include "syscall_x86_64.h"

namespace rfork::stub {

using namespace loader::plan;  // NOLINT: the stub is nothing but this ABI

[[noreturn]] inline void end_process() {
  for (;;) system_call(SYS_exit_group, 127);
}
/// Of one that has a plan: what would outlive it goes with it.
[[noreturn]] inline void end_process(const Header* header) {
  remove_segments(*header);
  end_process();
}

inline void send_message(Header* header, MessageKind kind, int64_t index, int error,
                         uint32_t slot) {
  Message message{};
  message.kind = kind;
  message.index = index;
  message.error = error;
  message.slot = slot;
  message.tid = static_cast<int32_t>(system_call(SYS_gettid));
  constexpr uint64_t kNoSignal = 0x4000;
  long sent;
  do {
    sent = system_call(SYS_sendto, static_cast<uint64_t>(header->control_fd),
                       reinterpret_cast<uint64_t>(&message), sizeof message, kNoSignal);
  } while (sent == -EINTR);
  if (sent != sizeof message) end_process(header);
}

[[noreturn]] inline void fail(Header* header, int64_t index, long result) {
  send_message(header, MessageKind::failed, index, static_cast<int>(-result), 0);
  end_process(header);
}

/// The loader's next message. When the loader is gone the child has no reason to be.
inline Message receive(Header* header) {
  Message message{};
  long got;
  do {
    got = system_call(SYS_recvfrom, static_cast<uint64_t>(header->control_fd),
                      reinterpret_cast<uint64_t>(&message), sizeof message);
  } while (got == -EINTR);
  if (got != sizeof message) end_process(header);
  return message;
}

}  // namespace rfork::stub
