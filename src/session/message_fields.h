// One list of members for each message; encoding and decoding (messages.cc) both walk it, so that a
// member can't be written and not read.
#pragma once

#include <concepts>
#include <type_traits>

#include "session/messages.h"

namespace rfork::session {

template <typename T, typename Struct>
concept Is = std::same_as<std::remove_const_t<T>, Struct>;

// An enumeration travels as a number up to this one.
constexpr unsigned last_value(loader::PidMode) {
  return static_cast<unsigned>(loader::PidMode::automatic);
}
constexpr unsigned last_value(ChildState) {
  return static_cast<unsigned>(ChildState::ended);
}
constexpr unsigned last_value(EventKind) {
  return static_cast<unsigned>(EventKind::lost);
}
constexpr unsigned last_value(Resolution::State) {
  return static_cast<unsigned>(Resolution::State::unknown);
}

void visit_members(auto& visit, Is<Reason> auto& x) {
  visit("what", x.what);
  visit("advice", x.advice);
}

void visit_members(auto& visit, Is<NamedSocket> auto& x) {
  visit("fd", x.fd);
  visit("family", x.family);
  visit("type", x.type);
  visit("protocol", x.protocol);
  visit("name", x.name);
  visit("peer", x.peer);
  visit("interface", x.interface);
  visit("has_path", x.has_path);
  visit("listening", x.listening);
  visit("cookie", x.cookie);
  visit("options", x.options);
  visit("values", x.values);
}

void visit_members(auto& visit, Is<OfferMessage> auto& x) {
  visit("move_id", x.move_id);
  visit("move", x.offer.move);
  visit("pid_mode", x.offer.pid_mode);
  visit("ignore_cpu", x.offer.ignore_cpu);
  visit("overwrite_files", x.offer.overwrite_files);
  visit("changed_files", x.offer.changed_files);
  visit("spooled", x.offer.spooled);
  visit("attended", x.offer.attended);
  visit("linger_s", x.offer.linger_s);
  visit("needs", x.offer.needs);
  visit("pid", x.offer.pid);
  visit("tids", x.offer.tids);
  visit("name", x.offer.name);
  visit("uid", x.offer.uid);
  visit("user", x.offer.user);
  visit("resident_bytes", x.offer.resident_bytes);
  visit("mapped_files", x.offer.mapped_files);
  visit("open_files", x.offer.open_files);
  visit("leases", x.offer.leases);
  visit("any_address", x.offer.any_address);
  visit("sockets", x.offer.sockets);
  visit("segments", x.offer.segments);
}

void visit_members(auto& visit, Is<Answer> auto& x) {
  visit("present_paths", x.present_paths);
  visit("warnings", x.warnings);
  visit("remakes_connections", x.remakes_connections);
}

void visit_members(auto& visit, Is<Judgement> auto& x) {
  visit("reasons", x.reasons);
  visit("warnings", x.warnings);
  visit("present_paths", x.present_paths);
  visit("goes_on", x.goes_on);
  visit("remakes_connections", x.remakes_connections);
  visit("pid_kept", x.pid_kept);
  visit("pid_namespace", x.pid_namespace);
}

void visit_members(auto& visit, Is<SignalMessage> auto& x) {
  visit("signal", x.signal);
  visit("info", x.info);
  visit("terminal", x.terminal);
  visit("orphaned", x.orphaned);
}

void visit_members(auto& visit, Is<ChildStateMessage> auto& x) {
  visit("wait_status", x.wait_status);
}

void visit_members(auto& visit, Is<ChangeReport> auto& x) {
  visit("id", x.id);
  visit("wait_status", x.wait_status);
}

void visit_members(auto& visit, Is<SignalReport> auto& x) {
  visit("id", x.id);
  visit("signal", x.signal);
}

void visit_members(auto& visit, Is<LostReport> auto& x) {
  visit("id", x.id);
  visit("reason", x.reason);
}

void visit_members(auto& visit, Is<ResourceUse> auto& x) {
  visit("known", x.known);
  visit("cpu_ns", x.cpu_ns);
  visit("resident_bytes", x.resident_bytes);
  visit("max_resident_bytes", x.max_resident_bytes);
  visit("threads", x.threads);
}

void visit_members(auto& visit, Is<UseReport> auto& x) {
  visit("id", x.id);
  visit("use", x.use);
}

void visit_members(auto& visit, Is<EndMessage> auto& x) {
  visit("image_bytes", x.image_bytes);
}

void visit_members(auto& visit, Is<Ready> auto& x) {
  visit("pid", x.pid);
  visit("warnings", x.warnings);
}

void visit_members(auto& visit, Is<Running> auto& x) {
  visit("child_id", x.child_id);
  visit("pid", x.pid);
}

void visit_members(auto& visit, Is<AbortMessage> auto& x) {
  visit("why", x.why);
}

void visit_members(auto& visit, Is<RefusedMessage> auto& x) {
  visit("reasons", x.reasons);
}

void visit_members(auto& visit, Is<MoveQuestion> auto& x) {
  visit("move_id", x.move_id);
}

void visit_members(auto& visit, Is<Resolution> auto& x) {
  visit("state", x.state);
  visit("child_id", x.child_id);
  visit("pid", x.pid);
  visit("description", x.description);
}

void visit_members(auto& visit, Is<ChildQuestion> auto& x) {
  visit("id", x.id);
}

void visit_members(auto& visit, Is<LogsQuestion> auto& x) {
  visit("id", x.id);
  visit("follow", x.follow);
  visit("offset", x.offset);
}

void visit_members(auto& visit, Is<EventsQuestion> auto& x) {
  visit("id", x.id);
  visit("follow", x.follow);
}

void visit_members(auto& visit, Is<EventsAfter> auto& x) {
  visit("after", x.after);
  visit("id", x.id);
  visit("wait", x.wait);
}

void visit_members(auto& visit, Is<Event> auto& x) {
  visit("sequence", x.sequence);
  visit("time_ns", x.time_ns);
  visit("kind", x.kind);
  visit("child_id", x.child_id);
  visit("move_id", x.move_id);
  visit("name", x.name);
  visit("pid", x.pid);
  visit("origin", x.origin);
  visit("origin_pid", x.origin_pid);
  visit("signal", x.signal);
  visit("signalled", x.end.signalled);
  visit("code", x.end.code);
  visit("core_dumped", x.end.core_dumped);
  visit("reason", x.reason);
}

void visit_members(auto& visit, Is<HostEvent> auto& x) {
  visit("host", x.host);
  visit("event", x.event);
}

void visit_members(auto& visit, Is<MissedMessage> auto& x) {
  visit("host", x.host);
  visit("count", x.count);
}

void visit_members(auto& visit, Is<EventsPart> auto& x) {
  visit("host", x.host);
  visit("missed", x.missed);
  visit("last", x.last);
  visit("more", x.more);
  visit("events", x.events);
}

void visit_members(auto& visit, Is<KillOrder> auto& x) {
  visit("id", x.id);
  visit("signal", x.signal);
}

void visit_members(auto& visit, Is<ChildInfo> auto& x) {
  visit("id", x.id);
  visit("move_id", x.move_id);
  visit("state", x.state);
  visit("stopped", x.stopped);
  visit("pid", x.pid);
  visit("inner_pid", x.inner_pid);
  visit("name", x.name);
  visit("user", x.user);
  visit("origin", x.origin);
  visit("origin_pid", x.origin_pid);
  visit("moved", x.moved);
  visit("since_ns", x.since_ns);
  visit("ended_ns", x.ended_ns);
  visit("signalled", x.end.signalled);
  visit("code", x.end.code);
  visit("core_dumped", x.end.core_dumped);
  visit("use", x.use);
}

void visit_members(auto& visit, Is<Announcement> auto& x) {
  visit("child", x.child);
}

void visit_members(auto& visit, Is<Standing> auto& x) {
  visit("pid", x.pid);
  visit("wait_pid", x.wait_pid);
  visit("inner_pid", x.inner_pid);
}

void visit_members(auto& visit, Is<ListQuestion> auto& x) {
  visit("after", x.after);
}

void visit_members(auto& visit, Is<ListPart> auto& x) {
  visit("children", x.children);
  visit("more", x.more);
}

}  // namespace rfork::session
