#include "session/event.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

namespace rfork::session {

namespace {

constexpr std::array<std::string_view, 9> kNames{"offered",   "received",  "restored",
                                                 "running",   "signalled", "stopped",
                                                 "continued", "ended",     "lost"};

}  // namespace

std::string_view name_of(EventKind kind) {
  return kNames.at(static_cast<size_t>(kind));
}

std::optional<EventKind> event_kind_of(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames.at(i) == name) return static_cast<EventKind>(i);
  }
  return std::nullopt;
}

std::string describe(const Event& event) {
  switch (event.kind) {
    case EventKind::offered:
      return fmt::format("from {}:{}", event.origin, event.origin_pid);
    case EventKind::restored:
    case EventKind::running:
      return fmt::format("pid {}", event.pid);
    case EventKind::signalled:
    case EventKind::stopped:
      return fmt::format("signal {} ({})", event.signal, strsignal(event.signal));
    case EventKind::ended:
      return describe(event.end);
    case EventKind::lost:
      return event.reason;
    case EventKind::received:
    case EventKind::continued:
      break;
  }
  return "";
}

Event event_of(const ChildInfo& child, EventKind kind) {
  constexpr size_t kMost = 64;  // a host's name; a process's has 15
  Event event;
  event.kind = kind;
  event.child_id = child.id;
  event.move_id = child.move_id.substr(0, kMost);
  event.name = child.name.substr(0, kMost);
  event.pid = child.pid;
  event.origin = child.origin.substr(0, kMost);
  event.origin_pid = child.origin_pid;
  return event;
}

}  // namespace rfork::session
