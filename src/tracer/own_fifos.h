// FIFOs (fifo(7)) that no other process has open. They are carried with what is in them.
//
// A FIFO that another process has open too is a way to that process, as a pipe is.
#pragma once

#include <sys/types.h>

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "tracer/inventory.h"
#include "tracer/own_channels.h"

namespace rfork::tracer {

class OwnFifos {
 public:
  /// Processes that may have them open too: `pid` itself, and a copy of it that was made for us.
  OwnFifos(pid_t pid, std::set<pid_t> same) : pid_(pid), same_(std::move(same)) {}

  /// All of the process's descriptors. With `relay`, one of which the process has an end only is
  /// left to a ghost, where its name leads on; but not, with `closed_ends`, if somebody had the
  /// other end and is gone.
  void look_at(const std::vector<ChannelEnd>& ends, bool relay, bool closed_ends);
  bool has(const ChannelEnd& end) const { return fifos_.contains(key(end)); }
  /// What there is of it, its queue too if the process is stopped.
  void describe(Inventory& inventory, const InventoryInput& input, const ChannelEnd& end,
                image::Description& description) const;

 private:
  using Key = std::pair<uint64_t, uint64_t>;  // device and inode
  struct Ends {
    bool read = false, written = false, closed = false;
    uint32_t first = 0;  // the description that carries the contents
  };
  static Key key(const ChannelEnd& end) { return {end.status.st_dev, end.status.st_ino}; }

  pid_t pid_;
  std::set<pid_t> same_;
  std::map<Key, Ends> fifos_;
};

}  // namespace rfork::tracer
