#include "session/control.h"

#include <fmt/format.h>

#include "base/error.h"
#include "net/link.h"
#include "session/messages.h"
#include "session/open_link.h"
#include "session/reading.h"

namespace rfork::session {

namespace {

using net::FrameType;

// A daemon that waits says so every few seconds (WorkerDeadlines::keepalive).
constexpr std::chrono::milliseconds kSignOfLife{30'000};

net::Link ask(const Endpoint& endpoint, FrameType question, std::span<const std::byte> body = {}) {
  if (endpoint.address.way == net::Address::Way::ssh) {
    throw Refusal(
        Failure::usage,
        fmt::format("{} starts an rforkd of its own each time, which knows no children of others'",
                    endpoint.address.text()),
        "only resolve can be asked over ssh; ps and kill there show and end children, and their "
        "output is in ~/.local/state/rforkd/logs, root's in /var/lib/rforkd/logs");
  }
  net::Link link = open_link(endpoint);
  link.write(question, body, {endpoint.deadlines.progress, "the question to be taken"});
  return link;
}

net::Frame answer(net::Link& link, std::initializer_list<FrameType> expected) {
  return read_expected(link, expected, {kSignOfLife, "the answer"});
}

/// A daemon's text goes to a terminal.
ChildInfo made_visible(ChildInfo child) {
  for (std::string* text : {&child.id, &child.move_id, &child.name, &child.user, &child.origin}) {
    *text = visible(*text);
  }
  return child;
}

}  // namespace

std::vector<ChildInfo> list_children(const Endpoint& endpoint) {
  net::Link link = ask(endpoint, FrameType::list);
  std::vector<ChildInfo> children;
  for (;;) {
    const net::Frame frame = answer(link, {FrameType::child, FrameType::done});
    if (frame.type == FrameType::done) return children;
    children.push_back(made_visible(decode<ChildInfo>(frame.body)));
  }
}

void read_log(const Endpoint& endpoint, const LogsQuestion& question,
              const std::function<void(std::span<const std::byte>)>& sink) {
  net::Link link = ask(endpoint, FrameType::logs, encode(question));
  for (;;) {
    const net::Frame frame = answer(link, {FrameType::log, FrameType::waiting, FrameType::done});
    if (frame.type == FrameType::done) return;
    sink(frame.body);  // WAITING has none
  }
}

void read_events(const Endpoint& endpoint, const std::string& id, bool follow,
                 const EventSink& sink) {
  net::Link link = ask(endpoint, FrameType::events, encode(EventsQuestion{id, follow}));
  for (;;) {
    const net::Frame frame =
        answer(link, {FrameType::event, FrameType::missed, FrameType::waiting, FrameType::done});
    if (frame.type == FrameType::done) return;
    if (frame.type == FrameType::event) sink.event(decode<HostEvent>(frame.body));
    if (frame.type == FrameType::missed) {
      const auto missed = decode<MissedMessage>(frame.body);
      sink.missed(missed.host, missed.count);
    }
  }
}

void send_signal(const Endpoint& endpoint, const std::string& id, int signal) {
  net::Link link = ask(endpoint, FrameType::kill, encode(KillOrder{id, signal}));
  (void)answer(link, {FrameType::done});
}

ChildInfo wait_for_child(const Endpoint& endpoint, const std::string& id) {
  net::Link link = ask(endpoint, FrameType::wait, encode(ChildQuestion{id}));
  for (;;) {
    const net::Frame frame = answer(link, {FrameType::child, FrameType::waiting});
    if (frame.type == FrameType::child) return made_visible(decode<ChildInfo>(frame.body));
  }
}

void remove_child(const Endpoint& endpoint, const std::string& id) {
  net::Link link = ask(endpoint, FrameType::remove, encode(ChildQuestion{id}));
  (void)answer(link, {FrameType::done});
}

}  // namespace rfork::session
