// Pseudo-terminals, pty(7), whose both ends only the process has.
//
// What has been written to one end and not read at the other can't be looked at without taking it,
// so such a terminal is carried when it is empty. A line that is being typed isn't told of at all.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "image/model.h"
#include "tracer/channel_end.h"

namespace rfork::tracer {

class PseudoTerminals {
 public:
  /// Processes that may have them open too: `pid` itself, and a copy of it that was made for us.
  PseudoTerminals(pid_t pid, std::set<pid_t> same) : pid_(pid), same_(std::move(same)) {}

  /// All of the process's descriptors.
  void look_at(const std::vector<ChannelEnd>& ends);
  bool has(const ChannelEnd& end) const;
  void describe(const ChannelEnd& end, image::Description& description) const;
  /// What can't be carried of this end, in words that follow its name; empty: all of it can.
  std::string obstacle(const ChannelEnd& end) const;

 private:
  struct Terminal {
    ChannelEnd master;
    dev_t slave = 0;           ///< st_rdev of /dev/pts/N
    uint64_t file_system = 0;  ///< st_dev of the slave, if the process has it open; 0: it hasn't
  };
  const Terminal* find(const ChannelEnd& end) const;
  uint64_t file_system_of(const Terminal& terminal) const;
  void leave_out_what_others_have();

  pid_t pid_;
  std::set<pid_t> same_;
  std::map<uint32_t, Terminal> terminals_;  ///< by number
};

}  // namespace rfork::tracer
