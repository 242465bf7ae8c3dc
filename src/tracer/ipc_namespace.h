// The IPC namespace of another process, looked into from within: /proc/sysvipc shows only the one
// of who opens it. Where it isn't this process's own, a child enters it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "image/model.h"

namespace rfork::tracer {

class IpcNamespace {
 public:
  /// Keeps the namespace of `pid`, which may end afterwards. Throws Error.
  explicit IpcNamespace(pid_t pid);

  /// What tells one from another as long as it lives.
  uint64_t inode() const { return inode_; }
  /// What `look` gives there, in a process of its own; nullopt when it may not be entered.
  std::optional<std::string> told(const std::function<std::string()>& look) const;
  /// /proc/sysvipc/shm there; nullopt when it may not be entered.
  std::optional<std::string> segments() const;
  /// A copy of all of a segment, `size` bytes of whole pages. Empty when it may not be read.
  UniqueFd contents(int32_t id, uint64_t size) const;
  /// Removes that segment if it is still the same one, and nobody has it attached.
  void remove_unused(const image::SysvSegment& segment) const;

 private:
  bool within(const std::function<bool()>& work) const;

  uint64_t inode_ = 0;
  UniqueFd ipc_, user_;  ///< empty: this process is in it
};

}  // namespace rfork::tracer
