// What rforkctl asks a daemon about its children. One connection a question.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "session/child_info.h"
#include "session/destination.h"
#include "session/event_line.h"
#include "session/messages.h"

namespace rfork::session {

// All throw Refusal: destination_refused with the daemon's reasons, connection_lost, interrupted.

std::vector<ChildInfo> list_children(const Endpoint& endpoint);
/// Gives `sink` the log in pieces; with `follow` until the child has ended and all of it was given,
/// and then now and then an empty piece when there is nothing new.
void read_log(const Endpoint& endpoint, const LogsQuestion& question,
              const std::function<void(std::span<const std::byte>)>& sink);

/// Who reads events. Their texts are as they came: event_line() makes them harmless.
struct EventSink {
  std::function<void(const HostEvent&)> event;
  /// So many were overwritten before they could be read.
  std::function<void(const std::string& host, uint64_t count)> missed;
};
/// The events that the daemon keeps, of one child if `id` isn't empty; with `follow` the new ones
/// too, until interrupted.
void read_events(const Endpoint& endpoint, const std::string& id, bool follow,
                 const EventSink& sink);

void send_signal(const Endpoint& endpoint, const std::string& id, int signal);
/// Returns when the child has ended.
ChildInfo wait_for_child(const Endpoint& endpoint, const std::string& id);
/// Makes the daemon forget an ended child and its log.
void remove_child(const Endpoint& endpoint, const std::string& id);

}  // namespace rfork::session
