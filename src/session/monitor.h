// Shows the events that daemons send (rforkd --notify) on one timeline.
#pragma once

#include <functional>
#include <string>

#include "net/address.h"
#include "session/timeline.h"

namespace rfork::session {

struct MonitorSink {
  std::function<void()> listening;
  std::function<void(const Timeline::Entry&)> event;
  /// Something came that is no event; told once for each sender.
  std::function<void(const std::string& sender)> garbage;
};

/// Listens on a UDP port until `interrupted`. Nobody is asked who he is: whoever reaches the port
/// can send events. Throws Refusal(usage) when it can't be bound.
void monitor(const net::Address& at, const std::function<bool()>& interrupted,
             const MonitorSink& sink);

}  // namespace rfork::session
