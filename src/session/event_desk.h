// A daemon's events: keeps the latest, gives them to workers that ask, and to whoever is notified.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "session/channel.h"
#include "session/children.h"
#include "session/event_line.h"
#include "session/event_ring.h"
#include "session/messages.h"

namespace rfork::session {

class EventDesk {
 public:
  /// Sends a packet to a worker, if it still lives. Never throws.
  using Send = std::function<void(WorkerId, PacketType, const Bytes&, int descriptor)>;
  /// Gets each event at once. Never throws, never waits.
  using Publish = std::function<void(const HostEvent&)>;

  EventDesk(size_t most, Send send, Publish publish);

  /// It happened now.
  void add(Event event);
  /// Answers, at once unless the worker wants to wait for an event.
  void answer(WorkerId worker, EventsAfter question);
  void worker_gone(WorkerId worker);
  /// Whether an event of this child is kept.
  bool knows(const std::string& id) const { return ring_.knows(id); }

 private:
  struct Listener {
    WorkerId worker;
    EventsAfter question;
  };

  EventsPart part_for(const EventsAfter& question) const;

  std::string host_;
  EventRing ring_;
  Send send_;
  Publish publish_;
  std::vector<Listener> listeners_;  ///< have seen all that is of interest to them
};

}  // namespace rfork::session
