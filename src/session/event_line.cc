#include "session/event_line.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace rfork::session {

namespace {

using Json = nlohmann::ordered_json;

/// Names are the kernel's bytes, which JSON text can't always hold.
std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void add_details(Json& object, const Event& event) {
  switch (event.kind) {
    case EventKind::signalled:
    case EventKind::stopped:
      object["signal"] = event.signal;
      break;
    case EventKind::ended:
      object["exit_code"] = exit_code(event.end);
      object["signal"] = event.end.signalled ? Json(event.end.code) : Json(nullptr);
      object["core_dumped"] = event.end.core_dumped;
      break;
    case EventKind::lost:
      object["reason"] = event.reason;
      break;
    default:
      break;
  }
}

}  // namespace

std::string iso_time(int64_t realtime_ns) {
  const auto seconds = static_cast<time_t>(realtime_ns / 1'000'000'000);
  return fmt::format("{:%FT%T}.{:03}Z", fmt::gmtime(seconds),
                     realtime_ns % 1'000'000'000 / 1'000'000);
}

std::string event_line(const HostEvent& told) {
  const Event& event = told.event;
  Json object = {{"sequence", event.sequence},
                 {"time", iso_time(event.time_ns)},
                 {"time_ns", event.time_ns},
                 {"host", told.host},
                 {"event", name_of(event.kind)},
                 {"child_id", event.child_id},
                 {"move_id", event.move_id},
                 {"name", event.name},
                 {"pid", event.pid},
                 {"origin", event.origin},
                 {"origin_pid", event.origin_pid}};
  add_details(object, event);
  return dump(object);
}

std::string missed_line(const std::string& host, uint64_t count) {
  return dump({{"event", "missed"}, {"host", host}, {"missed", count}});
}

}  // namespace rfork::session
