// `rforkctl HOST events`: a line for each event.
#pragma once

#include <string>

#include "session/control.h"

namespace rfork {

/// Events of one daemon, as JSON. Returns when they are all printed; with `follow` it doesn't, see
/// session::read_events().
void print_events(const session::Endpoint& endpoint, const std::string& child_id, bool follow);

}  // namespace rfork
