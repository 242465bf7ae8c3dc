#include "session/event_desk.h"

#include <unistd.h>

#include <climits>

#include "base/clock.h"

namespace rfork::session {

namespace {

constexpr size_t kPart = 64;  ///< events in one packet: well below kMaxPacket

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  (void)::gethostname(name, sizeof name - 1);
  return name;
}

}  // namespace

EventDesk::EventDesk(size_t most, Send send, Publish publish)
    : host_(host_name()), ring_(most), send_(std::move(send)), publish_(std::move(publish)) {}

void EventDesk::add(Event event) {
  event.time_ns = clock_ns(CLOCK_REALTIME);
  const Event& added = ring_.add(std::move(event));
  if (publish_) publish_({host_, added});
  std::erase_if(listeners_, [&](Listener& one) {
    if (!one.question.id.empty() && one.question.id != added.child_id) {
      one.question.after = added.sequence;  // of no interest, so nothing is missed
      return false;
    }
    send_(one.worker, PacketType::happened, encode(part_for(one.question)), -1);
    return true;
  });
}

void EventDesk::answer(WorkerId worker, EventsAfter question) {
  const EventsPart part = part_for(question);
  if (question.wait && part.events.empty() && part.missed == 0 && !part.more) {
    question.after = part.last;
    listeners_.push_back({worker, std::move(question)});
  } else {
    send_(worker, PacketType::happened, encode(part), -1);
  }
}

void EventDesk::worker_gone(WorkerId worker) {
  std::erase_if(listeners_, [&](const Listener& one) { return one.worker == worker; });
}

EventsPart EventDesk::part_for(const EventsAfter& question) const {
  EventsPart part = ring_.after(question.after, question.id, kPart);
  part.host = host_;
  return part;
}

}  // namespace rfork::session
