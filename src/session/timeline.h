// Events of many daemons in the order in which they happened.
//
// Datagrams of two hosts overtake one another, so each waits a moment before it is shown: those
// that come meanwhile and happened earlier go first. What comes later than that is shown at once,
// out of order. Each daemon numbers its events, so it is known how many never came.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "session/event_line.h"

namespace rfork::session {

class Timeline {
 public:
  struct Entry {
    HostEvent told;
    std::string line;     ///< as it came
    uint64_t missed = 0;  ///< events of its daemon right before it that have not come
  };

  /// An event waits for `patience_ns`, or until more than `most` do.
  Timeline(int64_t patience_ns, size_t most) : patience_ns_(patience_ns), most_(most) {}

  /// `sender` tells daemons apart: two can run on one host. Times are of any clock that goes on.
  void add(const std::string& sender, HostEvent told, std::string line, int64_t now_ns);
  /// What is to be shown now, in order.
  std::vector<Entry> take_due(int64_t now_ns);
  std::vector<Entry> take_all();
  /// When the next is due; nullopt when none waits.
  std::optional<int64_t> next_due_ns() const;

 private:
  using Key = std::pair<int64_t, uint64_t>;  ///< time, sequence
  struct Waiting {
    std::string sender;
    Entry entry;
  };
  struct Sender {
    Key newest;          ///< of all that came
    uint64_t shown = 0;  ///< the largest number
    int64_t heard_ns = 0;
  };

  Sender& sender_of(const std::string& name);
  std::vector<Entry> take_up_to(const Key& last);

  int64_t patience_ns_;
  size_t most_;
  std::multimap<Key, Waiting> waiting_;
  std::deque<std::pair<int64_t, Key>> arrivals_;
  std::map<std::string, Sender> senders_;
};

}  // namespace rfork::session
