// Who the child will be: user, pid, namespaces; and what this process is allowed to do about it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "image/model.h"
#include "loader/findings.h"
#include "loader/restore.h"

namespace rfork::loader {

/// Whether this process has it effective; numbers as in linux/capability.h.
bool has_capability(unsigned capability);
/// The permitted set, as a mask.
uint64_t own_permitted_capabilities();

/// The user that the child runs as, when that isn't simply the caller.
struct TargetUser {
  uid_t real = 0, effective = 0, saved = 0;
  gid_t real_group = 0, effective_group = 0, saved_group = 0;
  std::vector<gid_t> groups;
  std::string name;
  bool image_capabilities = false;  ///< the image's capability sets are restored too
};

/// As the image says, with its capabilities.
TargetUser user_of_image(const image::Credentials& there);
/// Threads with credentials of their own need a user that the image chooses.
void check_thread_credentials(const image::Process& process, const std::optional<TargetUser>& user,
                              bool lenient, Findings& findings);
/// nullopt: the child runs as the caller does. `findings` refuse an Options::user that can't be
/// had.
std::optional<TargetUser> target_user(const image::Process& process, const Options& options,
                                      Findings& findings);

/// Takes the file-system rights of `user` until destroyed. For the whole process (seteuid): paths
/// that an image names are opened with the rights that the image's user has here.
class ActAs {
 public:
  explicit ActAs(const std::optional<TargetUser>& user);
  ~ActAs();
  ActAs(const ActAs&) = delete;
  ActAs& operator=(const ActAs&) = delete;

 private:
  bool active_ = false;
  int dumpable_ = 1;
  uid_t uid_;
  gid_t gid_;
  std::vector<gid_t> groups_;
};

/// A capability is effective in this thread, or isn't, until destroyed; as far as it is permitted.
class HeldCapability {
 public:
  HeldCapability(unsigned capability, bool held);
  ~HeldCapability();
  HeldCapability(const HeldCapability&) = delete;
  HeldCapability& operator=(const HeldCapability&) = delete;

 private:
  unsigned capability_;
  bool before_;
};

/// Nanoseconds to be added to the initial time namespace's clocks.
struct ClockOffsets {
  int64_t monotonic_ns = 0, boottime_ns = 0;
};

/// One way of making the child.
struct Place {
  bool keep_ids = false;  ///< clone3 with set_tid
  bool pid_namespace = false;
  bool user_namespace = false;  ///< to be allowed the other ones
  bool ipc_namespace = false;
  std::optional<ClockOffsets> clocks;  ///< a time namespace
};

/// Whether the child's parent, the init of its pid namespace or the caller, lives as long as it.
bool parent_stays(const Place& place, const Options& options);

/// Whether the kernel lets a child of this process have these namespaces (CLONE_NEW*), and open
/// `write` for writing there unless that is null.
bool can_unshare(int flags, const char* write = nullptr);

/// The ways to try, best first; never empty. `ipc_namespace`: all of them with one. Throws Refusal
/// when PidMode::keep can't be had. Warnings say which clock jumps, and that the pid can't be kept.
std::vector<Place> choose_places(const image::Snapshot& snapshot, const Options& options,
                                 bool ipc_namespace, Findings& findings);

}  // namespace rfork::loader
