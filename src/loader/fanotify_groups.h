// Makes groups of fanotify(7) again, with their marks.
//
// As of inotify, marks are set before the child exists, when a failure can still be a refusal; what
// the restore itself does to marked files is taken out of the queue just before the child is let
// go.
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/findings.h"
#include "loader/host_files.h"

namespace rfork::loader {

class FanotifyGroups {
 public:
  /// `as_image_user`: this process's own capabilities may serve the image's user, too.
  FanotifyGroups(const HostFiles& files, const image::Process& process, bool as_image_user)
      : files_(files), process_(process), as_image_user_(as_image_user) {}

  /// A group with its marks. Empty, with a finding, when it can't be made.
  UniqueFd make(const image::Description& description, Findings& findings);
  /// Marks of mounts become the child's own, if it has a mount namespace of its own. With this
  /// process's own rights. Throws Error.
  void mark_mounts_of(pid_t child);
  /// All other preparations are done and the child is about to run: its queues begin here. Where
  /// events were lost the kernel's own FAN_Q_OVERFLOW says so.
  void begin_queues(pid_t child);

 private:
  struct Group {
    UniqueFd fd;
    const image::Description* description = nullptr;
    size_t capacity = 0;  ///< events that its queue holds; 0: as many as there are
  };

  bool has_privilege(const image::FanotifyGroup& wanted) const;
  bool set_mark(int fd, const image::FanotifyMark& mark, Findings& findings) const;
  bool missed_events(const Group& group, pid_t child) const;

  const HostFiles& files_;
  const image::Process& process_;
  bool as_image_user_;
  std::vector<Group> groups_;
};

}  // namespace rfork::loader
