// Makes instances of inotify(7) again, with their watches under the numbers that they had.
//
// The kernel gives numbers in order, so gaps are filled by watches that are removed again. Watches
// are set before the child exists, when a failure can still be a refusal; what the restore itself
// does to watched files is taken out of the queue just before the child is let go.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/findings.h"
#include "loader/host_files.h"

namespace rfork::loader {

class InotifyInstances {
 public:
  explicit InotifyInstances(const HostFiles& files) : files_(files) {}

  /// An instance with its watches. Empty, with a finding, when it can't be made.
  UniqueFd make(const image::Description& description, Findings& findings);
  /// All other preparations are done and the child is about to run: its queues begin here. Where
  /// events were lost (unread ones of the original, what happened since the capture) the kernel's
  /// own IN_Q_OVERFLOW says so; the watch of what isn't here ends with IN_IGNORED.
  void begin_queues();

 private:
  struct Watch {
    std::map<int, UniqueFd> gone;  ///< wds that stand for what isn't here, by a file to watch
    std::set<int> written;         ///< wds of files that the restore itself writes
  };
  struct Instance {
    UniqueFd fd;
    const image::Description* description = nullptr;
    Watch wds;
  };

  bool fill_gap(int fd, int32_t& next, int32_t until);
  bool set_watch(Instance& instance, const image::InotifyWatch& watch, Findings& findings);
  bool missed_events(const Instance& instance) const;

  const HostFiles& files_;
  std::vector<Instance> instances_;
};

}  // namespace rfork::loader
