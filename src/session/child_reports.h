// What a worker that stays with its child tells the daemon of it.
#pragma once

#include <sys/resource.h>

#include <string>

#include "session/daemon_line.h"

namespace rfork::session {

/// Each call waits until the daemon has room for it, so none is left out; once the daemon has ended
/// they do nothing.
class ChildReports {
 public:
  ChildReports(DaemonLine& line, std::string child_id) : line_(line), id_(std::move(child_id)) {}

  /// It stopped, went on or ended, as wait(2) tells.
  void changed(int wait_status);
  /// It was sent a signal.
  void signalled(int signal);
  /// Its ghost can't be reached any more.
  void lost(const std::string& why);
  /// What it used in all, as wait4(2) tells of the child or of its init.
  void used(const rusage& usage);

 private:
  DaemonLine& line_;
  std::string id_;
};

}  // namespace rfork::session
