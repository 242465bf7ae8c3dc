#include "tools/child_table.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "base/text.h"

namespace rfork {

namespace {

using nlohmann::json;
using session::ChildInfo;
using session::ChildState;

constexpr size_t kColumns = 10;
using Row = std::array<std::string, kColumns>;
constexpr std::array<bool, kColumns> kToTheRight{true,  true, false, false, false,
                                                 false, true, true,  true,  false};

std::string state_text(const ChildInfo& child) {
  if (child.state == ChildState::ended) return "ended, " + session::describe(child.end);
  return child.stopped ? "stopped" : std::string(name_of(child.state));
}

std::string time_text(int64_t realtime_ns) {
  return fmt::format("{:%F %T}", fmt::localtime(static_cast<time_t>(realtime_ns / 1'000'000'000)));
}

Row row_of(const ChildInfo& child) {
  const session::ResourceUse& use = child.use;
  const bool ended = child.state == ChildState::ended;
  const int64_t memory = ended ? use.max_resident_bytes : use.resident_bytes;
  return {child.id,
          child.pid == 0 ? "-" : std::to_string(child.pid),
          child.name,
          child.user,
          fmt::format("{}:{}", child.origin, child.origin_pid),
          time_text(child.since_ns),
          use.known ? human_duration_ns(use.cpu_ns) : "-",
          use.known ? human_bytes(static_cast<uint64_t>(memory)) : "-",
          use.known && !ended ? std::to_string(use.threads) : "-",
          state_text(child)};
}

}  // namespace

json to_json(const ChildInfo& child) {
  const auto known = [&](int64_t value) { return child.use.known ? json(value) : json(nullptr); };
  json object = {{"id", child.id},
                 {"move_id", child.move_id},
                 {"state", name_of(child.state)},
                 {"stopped", child.stopped},
                 {"pid", child.pid},
                 {"inner_pid", child.inner_pid},
                 {"name", child.name},
                 {"user", child.user},
                 {"origin", child.origin},
                 {"origin_pid", child.origin_pid},
                 {"moved", child.moved},
                 {"since_ns", child.since_ns},
                 {"cpu_ns", known(child.use.cpu_ns)}};
  if (child.state == ChildState::ended) {
    object["ended_ns"] = child.ended_ns;
    object["exit_code"] = session::exit_code(child.end);
    object["signal"] = child.end.signalled ? json(child.end.code) : json(nullptr);
    object["core_dumped"] = child.end.core_dumped;
    object["max_resident_bytes"] = known(child.use.max_resident_bytes);
  } else {
    object["resident_bytes"] = known(child.use.resident_bytes);
    object["threads"] = known(child.use.threads);
  }
  return object;
}

std::string child_table(const std::vector<ChildInfo>& children) {
  std::vector<Row> rows = {
      {"ID", "PID", "NAME", "USER", "FROM", "SINCE", "CPU", "MEMORY", "THREADS", "STATE"}};
  for (const ChildInfo& child : children) rows.push_back(row_of(child));
  std::array<size_t, kColumns> widths{};
  for (const Row& row : rows) {
    for (size_t i = 0; i + 1 < kColumns; ++i)
      widths.at(i) = std::max(widths.at(i), row.at(i).size());
  }
  std::string text;
  for (const Row& row : rows) {
    for (size_t i = 0; i < kColumns; ++i) {
      const size_t width = widths.at(i);
      text += kToTheRight.at(i) ? fmt::format("{:>{}}", row.at(i), width)
                                : fmt::format("{:<{}}", row.at(i), width);
      text += i + 1 < kColumns ? "  " : "\n";
    }
  }
  return text;
}

}  // namespace rfork
