#include "session/reading.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "session/messages.h"

namespace rfork::session {

net::Frame read_expected(net::Link& link, std::initializer_list<net::FrameType> expected,
                         net::Wait wait) {
  net::Frame frame = link.read(wait);
  if (std::ranges::find(expected, frame.type) == expected.end()) {
    throw_unexpected(link, frame, wait.for_what);
  }
  return frame;
}

void throw_unexpected(const net::Link& link, const net::Frame& frame, std::string_view for_what) {
  if (frame.type == net::FrameType::refused) {
    auto message = decode<RefusedMessage>(frame.body);
    for (Reason& reason : message.reasons) {
      reason = {visible(reason.what), visible(reason.advice)};
    }
    if (message.reasons.empty()) message.reasons.push_back({link.peer() + " gave no reason", ""});
    throw Refusal(Failure::destination_refused, std::move(message.reasons));
  }
  if (frame.type == net::FrameType::abort) {
    throw Refusal(
        Failure::connection_lost,
        fmt::format("{} gave up: {}", link.peer(), visible(decode<AbortMessage>(frame.body).why)));
  }
  throw Refusal(Failure::connection_lost, fmt::format("{} sent {} where {} was due", link.peer(),
                                                      name_of(frame.type), for_what));
}

}  // namespace rfork::session
