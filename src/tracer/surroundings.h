// What a process is in, and a restored one isn't: namespaces, and the confinement of a security
// module.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "tracer/remote_syscalls.h"

namespace rfork::tracer {

/// A line for everything around `pid` that is other than around us, whom the restored process will
/// be more like; of a mount namespace only if one of `files` is another one here.
std::vector<std::string> other_surroundings(pid_t pid, const std::vector<image::File>& files);

/// Finds out whether a process is in a Landlock domain, which neither it nor others are told: it
/// may not look at processes outside of it. So one is started with the same user and without any
/// privilege, for the process to look at.
class LandlockProbe {
 public:
  /// Before the process is frozen. nullptr: it can't have restricted itself (no `no_new_privs`), or
  /// there can't be such a process, for it would be in another user or pid namespace.
  static std::unique_ptr<LandlockProbe> make(pid_t pid);
  ~LandlockProbe();
  LandlockProbe(const LandlockProbe&) = delete;
  LandlockProbe& operator=(const LandlockProbe&) = delete;

  /// Asked through the original or its forked copy. Throws Refusal(cannot_carry).
  void refuse_domain(RemoteSyscalls& calls) const;

 private:
  LandlockProbe(pid_t pid, pid_t stranger) : pid_(pid), stranger_(stranger) {}

  pid_t pid_;
  pid_t stranger_;
};

}  // namespace rfork::tracer
