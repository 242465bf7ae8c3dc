// The latest events of a daemon, and no more: its memory is bounded, whatever its children do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "session/event.h"

namespace rfork::session {

/// A part of the events, for who has seen those up to some number.
struct EventsPart {
  std::string host;     ///< name of the daemon's
  uint64_t missed = 0;  ///< events that were overwritten before they could be given
  uint64_t last = 0;    ///< those up to this number have been looked at: where to go on
  bool more = false;    ///< there are newer ones already
  std::vector<Event> events;
};

class EventRing {
 public:
  explicit EventRing(size_t most) : most_(most) {}

  /// Numbers the event and keeps it in the place of the oldest.
  const Event& add(Event event);
  /// At most `most` events behind number `after`, of child `id` if that isn't empty. After 0: from
  /// the oldest that is kept, and none counts as missed.
  EventsPart after(uint64_t after, const std::string& id, size_t most) const;
  /// Number of the newest; 0 before the first.
  uint64_t last() const { return last_; }
  /// Whether an event of this child is kept.
  bool knows(const std::string& id) const;

 private:
  /// `sequence` is one that is kept.
  const Event& at(uint64_t sequence) const { return kept_[(sequence - 1) % most_]; }
  uint64_t oldest() const { return last_ - kept_.size() + 1; }

  size_t most_;
  uint64_t last_ = 0;
  std::vector<Event> kept_;  ///< event N is at (N - 1) % most_
};

}  // namespace rfork::session
