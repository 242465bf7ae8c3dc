// What both ends do with a frame that is not the one they wait for.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/text.h"
#include "net/link.h"

namespace rfork::session {

/// The next frame, which must be of one of `expected`. REFUSED becomes Refusal(destination_refused)
/// with the peer's reasons; ABORT becomes Refusal(connection_lost) with its why; anything else is a
/// fault of the peer's.
net::Frame read_expected(net::Link& link, std::initializer_list<net::FrameType> expected,
                         net::Wait wait);

/// Throws what REFUSED, ABORT, or a frame that was not expected here means.
[[noreturn]] void throw_unexpected(const net::Link& link, const net::Frame& frame,
                                   std::string_view for_what);

}  // namespace rfork::session
