// Whether others on this host have what one of our descriptors leads to.
#pragma once

#include <sys/types.h>

#include <string>

namespace rfork::session {

class OtherHolders {
 public:
  /// Of the pipe or socket that `fd` leads to; those of a pipe who can read it, or (`to_read`
  /// false) write it.
  OtherHolders(int fd, bool to_read);
  /// Whether another process has it, among those that this one may look at. Cheap while who was
  /// found last has it still, else all processes are looked at.
  bool exist();

 private:
  bool is_it(const std::string& entry) const;
  bool found_in(pid_t pid);

  std::string name_;  ///< as readlink(2) of /proc/PID/fd/N gives it
  mode_t access_ = 0;
  std::string entry_;  ///< of who was found last, in /proc
};

}  // namespace rfork::session
