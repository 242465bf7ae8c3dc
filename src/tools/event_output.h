// `rforkctl HOST events` and `rforkctl monitor`: a line for each event.
#pragma once

#include <functional>
#include <string>

#include "session/control.h"

namespace rfork {

/// Events of one daemon, as JSON. Returns when they are all printed; with `follow` it doesn't, see
/// session::read_events().
void print_events(const session::Endpoint& endpoint, const std::string& child_id, bool follow);

/// Events of all daemons that send theirs to `at`, which is `PORT` or `ADDR:PORT`, until
/// `interrupted`. Throws Refusal(usage).
void print_monitor(const std::string& at, bool as_json, const std::function<bool()>& interrupted);

}  // namespace rfork
