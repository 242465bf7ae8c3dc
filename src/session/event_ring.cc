#include "session/event_ring.h"

#include <algorithm>

namespace rfork::session {

const Event& EventRing::add(Event event) {
  event.sequence = ++last_;
  if (kept_.size() < most_) return kept_.emplace_back(std::move(event));
  Event& place = kept_[(last_ - 1) % most_];
  place = std::move(event);
  return place;
}

EventsPart EventRing::after(uint64_t after, const std::string& id, size_t most) const {
  EventsPart part;
  part.last = after;
  if (after >= last_) return part;
  uint64_t next = after + 1;
  if (next < oldest()) {
    if (after != 0) part.missed = oldest() - next;
    next = oldest();
  }
  for (; next <= last_ && part.events.size() < most; ++next) {
    const Event& event = at(next);
    if (id.empty() || event.child_id == id) part.events.push_back(event);
  }
  part.last = next - 1;
  part.more = next <= last_;
  return part;
}

bool EventRing::knows(const std::string& id) const {
  return std::ranges::any_of(kept_, [&](const Event& event) { return event.child_id == id; });
}

}  // namespace rfork::session
