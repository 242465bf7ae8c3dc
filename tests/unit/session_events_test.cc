// Events: what is kept and what is missed, their text, their order on a timeline, and who waits.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "session/event_desk.h"
#include "session/event_line.h"
#include "session/event_ring.h"
#include "session/resource_use.h"
#include "session/timeline.h"

using namespace rfork;
using namespace rfork::session;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;

namespace {

Event of_child(const std::string& id, EventKind kind = EventKind::running) {
  ChildInfo child;
  child.id = id;
  child.move_id = std::string(32, 'a');
  child.name = "na\x1b\xffme";
  child.origin = "host-a";
  child.origin_pid = 42;
  return event_of(child, kind);
}

std::vector<uint64_t> numbers(const EventsPart& part) {
  std::vector<uint64_t> all;
  for (const Event& event : part.events) all.push_back(event.sequence);
  return all;
}

using Numbers = std::vector<uint64_t>;

HostEvent at_time(const std::string& host, uint64_t sequence, int64_t time_ns) {
  HostEvent told{host, of_child("1")};
  told.event.sequence = sequence;
  told.event.time_ns = time_ns;
  return told;
}

/// "b2 a1+3": event 2 of host b, then event 1 of host a with 3 missed before it.
std::string shown(const std::vector<Timeline::Entry>& entries) {
  std::string text;
  for (const Timeline::Entry& entry : entries) {
    if (!text.empty()) text += " ";
    text += entry.told.host + std::to_string(entry.told.event.sequence);
    if (entry.missed != 0) text += "+" + std::to_string(entry.missed);
  }
  return text;
}

}  // namespace

TEST_CASE("a ring keeps the latest, and says how many were overwritten") {
  EventRing ring(4);
  CHECK(ring.after(0, "", 10).events.empty());
  CHECK(ring.after(0, "", 10).last == 0);
  for (int i = 0; i < 3; ++i) ring.add(of_child("1"));
  CHECK(numbers(ring.after(0, "", 10)) == Numbers{1, 2, 3});
  CHECK(numbers(ring.after(2, "", 10)) == Numbers{3});
  for (int i = 0; i < 6; ++i) ring.add(of_child("2"));

  const EventsPart from_start = ring.after(0, "", 10);  // who comes now has missed nothing
  CHECK(numbers(from_start) == Numbers{6, 7, 8, 9});
  CHECK(from_start.missed == 0);
  const EventsPart behind = ring.after(3, "", 2);
  CHECK(behind.missed == 2);
  CHECK(numbers(behind) == Numbers{6, 7});
  CHECK(behind.last == 7);
  CHECK(behind.more);
  const EventsPart rest = ring.after(behind.last, "", 2);
  CHECK(rest.missed == 0);
  CHECK(numbers(rest) == Numbers{8, 9});
  CHECK_FALSE(rest.more);
  CHECK(ring.after(9, "", 2).events.empty());
  CHECK(ring.after(9, "", 2).last == 9);
  CHECK(ring.after(~0ull, "", 2).events.empty());
  CHECK_FALSE(ring.knows("1"));
  CHECK(ring.knows("2"));
}

TEST_CASE("a ring looks for one child in bounded parts") {
  EventRing ring(100);
  for (int i = 0; i < 50; ++i) ring.add(of_child(i % 10 == 0 ? "1" : "2"));
  const EventsPart part = ring.after(0, "1", 3);
  CHECK(numbers(part) == Numbers{1, 11, 21});
  CHECK(part.more);
  const EventsPart rest = ring.after(part.last, "1", 3);
  CHECK(numbers(rest) == Numbers{31, 41});
  CHECK(rest.last == 50);
  CHECK_FALSE(rest.more);
}

TEST_CASE("an event keeps no more text than a kernel's names have") {
  ChildInfo child;
  child.name = child.origin = child.move_id = std::string(100'000, 'x');
  const Event event = event_of(child, EventKind::offered);
  CHECK(event.name.size() + event.origin.size() + event.move_id.size() < 300);
}

TEST_CASE("a line has all of an event, and gives it back") {
  for (const EventKind kind : {EventKind::offered, EventKind::received, EventKind::restored,
                               EventKind::running, EventKind::signalled, EventKind::stopped,
                               EventKind::continued, EventKind::ended, EventKind::lost}) {
    HostEvent told{"host-b", of_child("3", kind)};
    told.event.sequence = 7;
    told.event.time_ns = 1'795'263'000'123'456'789;
    told.event.signal = kind == EventKind::signalled || kind == EventKind::stopped ? 15 : 0;
    if (kind == EventKind::ended) told.event.end = {GENERATE(false, true), 9, false};
    if (kind == EventKind::lost) told.event.reason = "gone\n";
    const std::string line = event_line(told);
    CHECK(line.find_first_of("\n\x1b") == std::string::npos);
    CHECK_THAT(line, Contains(R"("time":"2026-11-21T12:10:00.123Z")"));
    const auto back = parse_event_line(line);
    REQUIRE(back);
    CHECK(back->host == "host-b");
    CHECK(event_line(*back) == line);
    CHECK(describe(back->event) == describe(told.event));
    CHECK(name_of(back->event.kind) == name_of(kind));
  }
}

TEST_CASE("what is no event's line is none") {
  const std::string line = event_line(at_time("h", 1, 5));
  REQUIRE(parse_event_line(line));
  CHECK(parse_event_line(line.substr(0, line.size() - 1) + R"(,"later":[1]})"));
  for (size_t i = 0; i < line.size(); ++i) CHECK_FALSE(parse_event_line(line.substr(0, i)));
  const auto changed = [&](const std::string& what, const std::string& to) {
    std::string text = line;
    return text.replace(text.find(what), what.size(), to);
  };
  for (const auto& [what, to] : std::vector<std::pair<std::string, std::string>>{
           {R"("sequence":1)", R"("sequence":0)"},
           {R"("sequence":1)", R"("sequence":-1)"},
           {R"("sequence":1)", R"("sequence":"1")"},
           {R"("sequence":1)", R"("sequence":1.5)"},
           {R"("time_ns":5)", R"("time_ns":-5)"},
           {R"("time_ns":5)", R"("time_ns":99999999999999999999)"},
           {R"("pid":0)", R"("pid":4294967296)"},
           {"running", "dancing"},
           {R"("host":"h")", R"("host":7)"},
           {R"("host":"h",)", ""},
           {"{", "[{"},
           {",", ",\n"}}) {
    CHECK_FALSE(parse_event_line(changed(what, to)));
  }
  CHECK_FALSE(parse_event_line(std::string(8000, '[')));
  CHECK_FALSE(parse_event_line(changed("\"h\"", "\"" + std::string(9000, 'h') + "\"")));
}

TEST_CASE("a timeline shows events by time, each after a moment") {
  Timeline timeline(100, 1000);
  CHECK_FALSE(timeline.next_due_ns());
  timeline.add("b:1", at_time("b", 1, 2000), "", 0);
  timeline.add("a:1", at_time("a", 1, 1000), "", 50);
  timeline.add("a:1", at_time("a", 2, 3000), "", 60);
  CHECK(timeline.next_due_ns() == 100);
  CHECK(timeline.take_due(99).empty());
  CHECK(shown(timeline.take_due(100)) == "a1 b1");
  CHECK(shown(timeline.take_due(160)) == "a2");
  timeline.add("b:1", at_time("b", 2, 10), "", 200);  // too late for its place
  CHECK(shown(timeline.take_all()) == "b2");
  CHECK_FALSE(timeline.next_due_ns());
}

TEST_CASE("a timeline says what did not come, and of which daemon") {
  Timeline timeline(100, 1000);
  timeline.add("a:1", at_time("a", 5, 1000), "", 0);  // what was before it was here has no say
  timeline.add("a:2", at_time("a", 1, 1001), "", 0);  // another daemon of that host
  timeline.add("a:1", at_time("a", 9, 1002), "", 0);
  timeline.add("a:1", at_time("a", 8, 1002), "", 0);  // overtaken on the way
  timeline.add("a:2", at_time("a", 2, 500), "", 0);   // its clock was set back
  timeline.add("a:2", at_time("a", 4, 501), "", 0);
  CHECK(shown(timeline.take_due(100)) == "a5 a1 a2 a4+1 a8+2 a9");
  timeline.add("a:1", at_time("a", 7, 1003), "", 0);  // it came after all
  timeline.add("a:1", at_time("a", 10, 1004), "", 0);
  CHECK(shown(timeline.take_all()) == "a7 a10");
}

TEST_CASE("a timeline keeps no more than it may") {
  Timeline timeline(1'000'000, 10);
  for (uint64_t i = 1; i <= 25; ++i) {
    timeline.add("a:1", at_time("a", i, static_cast<int64_t>(i)), "", 0);
  }
  CHECK(timeline.take_due(0).size() == 15);
  CHECK(timeline.take_all().size() == 10);
  for (int i = 0; i < 10'000; ++i) {
    timeline.add("x:" + std::to_string(i), at_time("x", 1, i), "", i);
    (void)timeline.take_due(i);
  }
  CHECK(timeline.take_all().size() == 10);
}

TEST_CASE("who waits for events is told when there is one, and of the right child") {
  std::vector<std::pair<WorkerId, EventsPart>> sent;
  std::vector<uint64_t> published;
  EventDesk desk(
      4,
      [&](WorkerId worker, PacketType type, const Bytes& body, int) {
        CHECK(type == PacketType::happened);
        sent.emplace_back(worker, decode<EventsPart>(body));
      },
      [&](const HostEvent& told) { published.push_back(told.event.sequence); });
  desk.add(of_child("1"));
  desk.answer(1, {0, "", true});
  REQUIRE(sent.size() == 1);
  CHECK(numbers(sent[0].second) == Numbers{1});
  CHECK_FALSE(sent[0].second.host.empty());
  desk.answer(1, {1, "", false});
  CHECK(sent.at(1).second.events.empty());

  desk.answer(1, {1, "", true});
  desk.answer(2, {1, "2", true});
  desk.answer(3, {1, "", true});
  desk.worker_gone(3);
  CHECK(sent.size() == 2);
  for (int i = 0; i < 6; ++i) desk.add(of_child("1"));  // overwrites what is not for 2
  CHECK(sent.size() == 3);
  CHECK(sent[2].first == 1);
  desk.add(of_child("2"));
  REQUIRE(sent.size() == 4);
  CHECK(sent[3].first == 2);
  CHECK(sent[3].second.missed == 0);
  CHECK(numbers(sent[3].second) == Numbers{8});
  CHECK(published == Numbers{1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_CASE("the kernel's line of a process") {
  const std::string line =
      "42 (a) (b c) T 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 12345 8000000 512 "
      "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n";
  const auto look = parse_stat(line);
  REQUIRE(look);
  CHECK(look->state == 'T');
  CHECK(look->use.known);
  CHECK(look->use.cpu_ns == 3'000'000'000);  // of 100 ticks a second
  CHECK(look->use.threads == 3);
  CHECK(look->use.resident_bytes == 512 * 4096);
  for (size_t i = 0; i < line.find(" 512 ") + 1; ++i) CHECK_FALSE(parse_stat(line.substr(0, i)));
  CHECK_FALSE(parse_stat("42 (x) T a b c d e f g h i j k l m n o p q r s t u v w x y z"));
}
