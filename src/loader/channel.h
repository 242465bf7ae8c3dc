// The feeder's end of the conversation with the stub: a ring of slots in shared memory, and small
// messages that say which slot is full and which is free.
//
// Shared memory and not a pipe, because page data is then copied once on its way (into its final
// place) and the feeder can digest it while the stub still copies the slot before.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "loader/stub/plan.h"

namespace rfork::loader {

class Channel {
 public:
  /// `explain` throws for a failure that the stub reported, or for its death (nullptr).
  using Explain = std::function<void(const plan::Message*)>;
  Channel(std::chrono::milliseconds timeout, Explain explain);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  int ring_fd() const { return ring_fd_.get(); }
  int child_end() const { return theirs_.get(); }
  /// After the fork: only the child holds its end, so that its death shows.
  void close_child_end() { theirs_.reset(); }

  /// A free slot; waits for one.
  std::span<std::byte> next_slot();
  void submit(size_t size);
  /// Bytes that were given to the slot of the last next_slot().
  std::span<const std::byte> current_slot() const;

  void send(const plan::Message& message);
  /// Waits for a message of that kind; slots that come free meanwhile are noted.
  void await(plan::MessageKind kind, const char* what);
  /// The child's pid as this process sees it: from the credentials of its messages. 0 before the
  /// first.
  pid_t peer_pid() const { return peer_pid_; }

 private:
  plan::Message receive(const char* what);

  std::chrono::milliseconds timeout_;
  Explain explain_;
  UniqueFd ring_fd_, ours_, theirs_;
  std::byte* ring_ = nullptr;
  std::array<bool, plan::kSlots> busy_{};
  uint32_t slot_ = plan::kSlots - 1;
  pid_t peer_pid_ = 0;
};

}  // namespace rfork::loader
