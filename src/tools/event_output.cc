#include "tools/event_output.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

#include "base/io.h"
#include "base/text.h"
#include "session/monitor.h"

namespace rfork {

namespace {

using session::Event;
using session::Timeline;

/// At once: somebody may read it as it comes.
void print_line(const std::string& line) {
  write_full(STDOUT_FILENO, as_bytes(line + "\n"), "standard output");
}

std::string time_text(int64_t realtime_ns) {
  const auto seconds = static_cast<time_t>(realtime_ns / 1'000'000'000);
  return fmt::format("{:%F %T}.{:03}", fmt::localtime(seconds),
                     realtime_ns % 1'000'000'000 / 1'000'000);
}

void print_entry(const Timeline::Entry& entry) {
  const Event& event = entry.told.event;
  const std::string time = time_text(event.time_ns);
  const std::string host = visible(entry.told.host);
  if (entry.missed != 0) {
    print_line(fmt::format("{}  {:<10}  {} before this did not come", time, host,
                           entry.missed == 1 ? "1 event" : fmt::format("{} events", entry.missed)));
  }
  std::string line =
      fmt::format("{}  {:<10}  {:>4}  {:<15}  {:<9}  {}", time, host, visible(event.child_id),
                  visible(event.name), name_of(event.kind), visible(describe(event)));
  line.erase(line.find_last_not_of(' ') + 1);
  print_line(line);
}

void print_entry_as_json(const Timeline::Entry& entry) {
  if (entry.missed != 0) print_line(session::missed_line(entry.told.host, entry.missed));
  print_line(entry.line);
}

net::Address address_of(const std::string& at) {
  const bool only_port = at.find_first_not_of("0123456789") == std::string::npos;
  return net::parse_address(only_port ? "0.0.0.0:" + at : at, net::PortRule::required);
}

}  // namespace

void print_events(const session::Endpoint& endpoint, const std::string& child_id, bool follow) {
  const session::EventSink sink{
      [](const session::HostEvent& event) { print_line(event_line(event)); },
      [](const std::string& host, uint64_t count) {
        print_line(session::missed_line(host, count));
      }};
  session::read_events(endpoint, child_id, follow, sink);
}

void print_monitor(const std::string& at, bool as_json, const std::function<bool()>& interrupted) {
  const net::Address address = address_of(at);
  const session::MonitorSink sink{
      [&] { fmt::print(stderr, "rforkctl: waiting for events at {}\n", address.text()); },
      as_json ? print_entry_as_json : print_entry,
      [](const std::string& sender) {
        fmt::print(stderr, "rforkctl: {} sends what is no event; it is passed over\n", sender);
      }};
  session::monitor(address, interrupted, sink);
}

}  // namespace rfork
