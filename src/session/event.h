// What happened to a child, as a daemon tells it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "session/child_info.h"

namespace rfork::session {

enum class EventKind : uint8_t {
  offered,    ///< its image was announced
  received,   ///< its image is here, whole and checked
  restored,   ///< stands before its first instruction
  running,    ///< was let go
  signalled,  ///< was sent a signal by rforkctl or its ghost
  stopped,
  continued,
  ended,
  lost,  ///< its ghost can't be reached any more, or it was never let run
};

/// "offered", "received", ...
std::string_view name_of(EventKind kind);
/// The other way round; nullopt for any other text.
std::optional<EventKind> event_kind_of(std::string_view name);

struct Event {
  uint64_t sequence = 0;  ///< from 1 on, without a gap, for as long as the daemon runs
  int64_t time_ns = 0;    ///< CLOCK_REALTIME
  EventKind kind = EventKind::offered;
  std::string child_id;
  std::string move_id;
  std::string name;  ///< of the child
  pid_t pid = 0;     ///< as in ChildInfo: 0 before it is restored
  std::string origin;
  pid_t origin_pid = 0;
  int32_t signal = 0;    ///< signalled, stopped
  loader::ChildEnd end;  ///< ended
  std::string reason;    ///< lost
};

/// What an event says beside its kind: "signal 15 (Terminated)", "exit status 3", a lost child's
/// reason; may be empty. Text of others' in it is as it came.
std::string describe(const Event& event);

/// An event of `child`, without sequence and time. Texts are cut to what a kernel's name can have,
/// so that what keeps events knows how much memory they take.
Event event_of(const ChildInfo& child, EventKind kind);

}  // namespace rfork::session
