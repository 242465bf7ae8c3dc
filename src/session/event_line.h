// Events as text: one JSON object a line, the same from rforkctl and in a datagram of `--notify`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "session/event.h"

namespace rfork::session {

/// An event, and the host whose daemon tells it.
struct HostEvent {
  std::string host;
  Event event;
};

/// `2026-11-21T12:28:26.123Z`
std::string iso_time(int64_t realtime_ns);

/// {"sequence":7,"time":...,"time_ns":...,"host":...,"event":"ended",...}, without a newline and
/// without control characters.
std::string event_line(const HostEvent& event);
/// {"event":"missed","host":...,"missed":3}: that so many events are not there.
std::string missed_line(const std::string& host, uint64_t count);

/// The other way round; nullopt when the text is no line of event_line()'s. Members that aren't
/// known are passed over, so that a monitor reads what later daemons say.
std::optional<HostEvent> parse_event_line(std::string_view line);

}  // namespace rfork::session
