#include "session/timeline.h"

#include <algorithm>
#include <limits>

namespace rfork::session {

namespace {

constexpr size_t kMostSenders = 4096;

}  // namespace

void Timeline::add(const std::string& name, HostEvent told, std::string line, int64_t now_ns) {
  Sender& sender = sender_of(name);
  sender.heard_ns = now_ns;
  Key key{told.event.time_ns, told.event.sequence};
  // A clock that was set back must not turn one daemon's events around.
  if (key.second > sender.newest.second) {
    key.first = std::max(key.first, sender.newest.first);
    sender.newest = key;
  }
  arrivals_.emplace_back(now_ns, key);
  waiting_.emplace(key, Waiting{name, {std::move(told), std::move(line), 0}});
}

std::vector<Timeline::Entry> Timeline::take_due(int64_t now_ns) {
  std::optional<Key> last;
  while (!arrivals_.empty() &&
         (arrivals_.size() > most_ || arrivals_.front().first + patience_ns_ <= now_ns)) {
    last = std::max(last.value_or(Key{}), arrivals_.front().second);
    arrivals_.pop_front();
  }
  return last ? take_up_to(*last) : std::vector<Entry>{};
}

std::vector<Timeline::Entry> Timeline::take_all() {
  arrivals_.clear();
  return take_up_to({std::numeric_limits<int64_t>::max(), 0});
}

std::optional<int64_t> Timeline::next_due_ns() const {
  if (arrivals_.empty()) return std::nullopt;
  return arrivals_.front().first + patience_ns_;
}

/// What happened before the event that is due goes with it: the order would be lost otherwise.
std::vector<Timeline::Entry> Timeline::take_up_to(const Key& last) {
  std::vector<Entry> taken;
  while (!waiting_.empty() && waiting_.begin()->first <= last) {
    Waiting next = std::move(waiting_.extract(waiting_.begin()).mapped());
    const uint64_t sequence = next.entry.told.event.sequence;
    Sender& sender = sender_of(next.sender);
    if (sender.shown != 0 && sequence > sender.shown + 1) {
      next.entry.missed = sequence - sender.shown - 1;
    }
    sender.shown = std::max(sender.shown, sequence);
    taken.push_back(std::move(next.entry));
  }
  return taken;
}

/// Senders can be invented: the one that was silent for longest is forgotten.
Timeline::Sender& Timeline::sender_of(const std::string& name) {
  if (!senders_.contains(name) && senders_.size() >= kMostSenders) {
    senders_.erase(std::ranges::min_element(
        senders_, {}, [](const auto& entry) { return entry.second.heard_ns; }));
  }
  return senders_[name];
}

}  // namespace rfork::session
