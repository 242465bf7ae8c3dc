// The child's descriptor table: which open file stands behind each number, and the operations that
// put it there.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/fanotify_groups.h"
#include "loader/fifos.h"
#include "loader/held_connections.h"
#include "loader/host_files.h"
#include "loader/inotify_instances.h"
#include "loader/kernel_objects.h"
#include "loader/memory_plan.h"
#include "loader/plan_writer.h"
#include "loader/pseudo_terminals.h"
#include "loader/remade_connections.h"
#include "loader/restore.h"
#include "loader/sockets.h"

namespace rfork::loader {

class OpenFiles {
 public:
  /// Opens or checks everything that the process's descriptors name; what can't be had becomes
  /// reasons in `findings`.
  OpenFiles(const image::Snapshot& snapshot, const Options& options, HostFiles& files,
            HeldConnections& held, const RemadeConnections& remade, Findings& findings);

  /// Highest number that the image wants.
  int highest() const { return highest_; }
  /// Hands over what this process opened: before the child is forked.
  void hand(HandedFds& handed) const;
  /// Closes what this process opened: the child has it. Who reads a pipe of its own would else not
  /// see its end.
  void let_go();
  /// What must be told of the child's mounts, when it has them. With this process's own rights.
  void enter_mounts(pid_t child) { fanotify_.mark_mounts_of(child); }
  /// The child is about to run, and all files have their names.
  void begin_queues(pid_t child) {
    inotify_.begin_queues();
    fanotify_.begin_queues(child);
  }
  /// The child is about to run: paths that its sockets are bound to stay.
  void keep() { sockets_.keep(); }
  /// Puts descriptors that this process opened at their numbers.
  void add_handed(PlanWriter& plan, HandedFds& handed) const;
  /// Makes the terminal that stands in for the image's the child's own. After add_handed().
  void add_controlling_terminal(PlanWriter& plan) const;
  /// Sends what is to be in connections in the process's own name. With all descriptors in place.
  void add_messages(PlanWriter& plan) const { sockets_.add_messages(plan); }
  /// Tells epoll instances what they watch. After all descriptors are in place.
  void add_watches(PlanWriter& plan) const;
  /// Says who gets the signals of descriptors, with the child's own user. Threads have written
  /// their tids to `tids`.
  void add_owners(PlanWriter& plan, uint64_t tids) const;
  /// Gives timers their time. After GO.
  void add_timers(PlanWriter& plan) const;
  /// Opens what only the child can open (directories in its own mount namespace, /proc/self). With
  /// the child's own user. What a thread but the leader opens, which calls it by its old id, is
  /// only its own: /proc/thread-self.
  void add_opened_by_child(PlanWriter& plan, int32_t thread) const;
  /// Opens the child's own pidfds, when all other descriptors are in place.
  void add_pidfds(PlanWriter& plan) const;

  enum class Locks {
    free,         ///< those that can be had at once: before READY
    of_original,  ///< those that the frozen original holds until it ends: waited for, after GO
  };
  /// Takes file locks, when all descriptors are in place and no other will be closed.
  void add_locks(PlanWriter& plan, Locks which) const;
  bool waits_for_locks() const;

 private:
  struct Opened {
    UniqueFd own;
    int fd = -1;  ///< own or borrowed
    /// Of the caller's streams: 0, 1 and 2 may be one in the image, and several here.
    const image::Description* stdio = nullptr;
    std::string child_path;  ///< opened by the child instead
    int32_t thread = 0;      ///< which of its threads, by the image's number; 0: the leader
    int flags = 0;
    int64_t offset = 0;
    std::map<Locks, std::vector<image::FileLock>> locks;
  };

  static Opened own(UniqueFd fd);
  void open_passed(const image::Description& socket);
  int passed(uint32_t id);
  Opened open_one(const image::Description& description);
  Opened open_stdio(const image::Description& description);
  bool stands_on(uint32_t description, int fd) const;
  int standard_stream(const image::Description& description, int fd) const;
  int fd_for(const image::Descriptor& descriptor, const Opened& opened) const;
  Opened open_relay(const image::Description& description);
  Opened open_file(const image::Description& description);
  Opened check_device(const image::Description& description);
  Opened check_directory(const image::Description& description);
  Opened removed_directory(const image::Description& description);
  Opened check_kernel_file(const image::Description& description);
  Opened open_bare_path(const image::Description& description);
  void for_each_of(image::Description::Kind kind,
                   const std::function<void(int, const image::Description&)>& visit) const;
  void sort_locks(const image::Description& description, Opened& opened);
  bool may_have_lease(const image::Description& description, const Opened& opened,
                      const image::FileLock& lock);

  const image::Snapshot& snapshot_;
  const image::Process& process_;
  const Options& options_;
  HostFiles& files_;
  Findings& findings_;
  PipeMaker pipes_;
  Fifos fifos_;
  InotifyInstances inotify_;
  FanotifyGroups fanotify_;
  SocketMaker sockets_;
  PseudoTerminals terminals_;
  std::map<uint32_t, Opened> opened_;
  UniqueFd null_;
  std::vector<UniqueFd> passed_;  ///< what the child opens itself, for who gets it from a socket
  int highest_ = -1;
};

}  // namespace rfork::loader
