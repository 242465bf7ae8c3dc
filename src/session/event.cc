#include "session/event.h"

#include <array>

namespace rfork::session {

namespace {

constexpr std::array<std::string_view, 9> kNames{"offered",   "received",  "restored",
                                                 "running",   "signalled", "stopped",
                                                 "continued", "ended",     "lost"};

}  // namespace

std::string_view name_of(EventKind kind) {
  return kNames.at(static_cast<size_t>(kind));
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
