// The queue of a fanotify(7) group that a restore has made: what is in it, and how to put the
// kernel's word for lost events there.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rfork::loader {

/// What all kinds of groups tell of an event.
struct FanotifyEvent {
  uint64_t mask = 0;
  pid_t pid = 0;  ///< 0: it isn't told whose
};

/// All events that wait, out of the queue of a group that doesn't block.
std::vector<FanotifyEvent> take_events(int group);

/// The events that a queue holds which is made now; 0: that can't be known, or too many to be made.
size_t fanotify_capacity();
/// Whether an event can be made here that such a group reports. The queue is empty afterwards.
bool can_make_event(int group);
/// The queue is filled until the kernel says that it lost events, and all but that is taken out.
void make_overflow(int group, size_t capacity);

}  // namespace rfork::loader
