#include "session/event_line.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace rfork::session {

namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostLine = 8192;

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

template <typename Integer>
Integer integer_of(const Json& object, const char* name) {
  const Json& value = object.at(name);
  if (!value.is_number_integer()) throw std::invalid_argument(name);
  const bool fits = value.is_number_unsigned() ? std::in_range<Integer>(value.get<uint64_t>())
                                               : std::in_range<Integer>(value.get<int64_t>());
  if (!fits) throw std::invalid_argument(name);
  return value.get<Integer>();
}

void take_details(const Json& object, Event& event) {
  switch (event.kind) {
    case EventKind::signalled:
    case EventKind::stopped:
      event.signal = integer_of<int32_t>(object, "signal");
      break;
    case EventKind::ended:
      event.end.signalled = !object.at("signal").is_null();
      event.end.code = integer_of<int>(object, event.end.signalled ? "signal" : "exit_code");
      event.end.core_dumped = object.at("core_dumped").get<bool>();
      break;
    case EventKind::lost:
      event.reason = object.at("reason").get<std::string>();
      break;
    default:
      break;
  }
}

HostEvent event_from(const Json& object) {
  HostEvent read;
  read.host = object.at("host").get<std::string>();
  Event& event = read.event;
  const auto kind = event_kind_of(object.at("event").get<std::string>());
  if (!kind) throw std::invalid_argument("event");
  event.kind = *kind;
  event.sequence = integer_of<uint64_t>(object, "sequence");
  event.time_ns = integer_of<int64_t>(object, "time_ns");
  if (event.sequence == 0 || event.time_ns < 0) throw std::invalid_argument("sequence");
  event.child_id = object.at("child_id").get<std::string>();
  event.move_id = object.at("move_id").get<std::string>();
  event.name = object.at("name").get<std::string>();
  event.pid = integer_of<pid_t>(object, "pid");
  event.origin = object.at("origin").get<std::string>();
  event.origin_pid = integer_of<pid_t>(object, "origin_pid");
  take_details(object, event);
  return read;
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

std::optional<HostEvent> parse_event_line(std::string_view line) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
  if (line.size() > kMostLine || std::ranges::any_of(line, is_control)) return std::nullopt;
  const Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) return std::nullopt;
  try {
    return event_from(object);
  } catch (const Json::exception&) {
    return std::nullopt;
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
}

}  // namespace rfork::session
