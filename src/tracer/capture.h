// Takes a live process: looks at it, freezes it, gives its snapshot and its pages, lets it go.
//
// examine() looks without stopping anything and finds what can't be carried. Capture freezes the
// process, and reads it with as little injected code as the kernel allows. See docs/capture.md.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "image/format.h"
#include "image/host.h"
#include "image/model.h"
#include "tracer/carried_signals.h"

namespace rfork::tracer {

class ConnectionSilence;

struct Options {
  bool move = false;         ///< the original stays frozen until end_original() or release()
  bool into_file = false;    ///< nobody takes sockets from the original while it is frozen
  std::set<int> drop_fds;    ///< descriptors whose loss is accepted: the child finds them closed
  bool thin = false;         ///< clean pages and contents of named files are left out
  bool drop_timers = false;  ///< the child has no POSIX timers
  bool drop_attributes = false;   ///< accepts that what needs a privilege which the restorer lacks
                                  ///< stays as it is there
  bool drop_locks = false;        ///< accepts the loss of file locks and leases
  bool drop_connections = false;  ///< of a move: accepts that those break which nobody has accepted
  bool keep_tcp = false;  ///< of a move on this host: TCP connections to elsewhere stay as they
                          ///< are, to be taken from the frozen original, or from the `holder`
  /// Of a move whose connections get new sockets there: borrowed.
  ConnectionSilence* silence = nullptr;
  /// Of a move into a file: who gets what take_kept() gives.
  std::optional<image::ConnectionHolder> holder;
  bool leave_children = false;  ///< accepts that the child has none of the process's children
  bool drop_ipc = false;        ///< accepts that SysV semaphores and queues stay where they are
  bool own_segments = false;    ///< accepts that the child has SysV segments of its own in place of
                                ///< those that other processes have attached, too
  bool relay = false;        ///< a ghost will stand here: what pipes, stream sockets and terminals
                             ///< lead to stays reachable through it
  bool relay_input = false;  ///< standard input too; else the child finds it empty
  bool glance = false;  ///< only the snapshot is wanted: the original goes on as soon as it can,
                        ///< and nothing can be read
  /// The process is a fork of its parent's that was made to be taken away: of the kernel objects
  /// that they share it gets its own.
  bool forked = false;
  /// Written into the image's memory, not the original's: how a program that asked for this tells
  /// which of the two it is.
  std::vector<image::MemoryPatch> patches;
  /// Checked between steps and chunks; true makes the capture let go and throw
  /// Refusal(interrupted).
  std::function<bool()> interrupted = [] { return false; };

  bool accepts_losses() const {
    return !drop_fds.empty() || drop_timers || drop_locks || drop_attributes || leave_children ||
           drop_ipc || own_segments;
  }
};

struct Inventory;

/// A socket that has a name, or asks for one there.
struct OpenSocket {
  int32_t fd = 0;
  image::Socket socket;
};

/// A TCP connection that is to outlive the original.
struct KeptSocket {
  uint64_t cookie = 0;  ///< SO_COOKIE
  UniqueFd fd;          ///< the very socket
};

/// What is known of a process before it is frozen.
struct Examination {
  pid_t pid = 0;
  std::string name;
  uint32_t euid = 0;
  std::string user;
  uint64_t resident_bytes = 0;
  image::Needs needs;
  std::vector<image::File>
      mapped_files;  ///< that mappings or the executable name; digests where there is no build-id
  std::vector<image::File> open_files;       ///< that descriptors or writable shared mappings name
  bool leases = false;                       ///< it holds some
  std::vector<OpenSocket> sockets;           ///< that are bound or connected to a name
  std::vector<image::SysvSegment> segments;  ///< that it has attached
  std::vector<int32_t> tids;                 ///< as the process sees them, its pid first
  /// Ranges with MADV_DONTFORK or MADV_WIPEONFORK.
  std::vector<Range> not_forked;
  std::shared_ptr<const Inventory> inventory;
  std::vector<Reason> obstacles;     ///< what can't be carried; empty after examine()
  std::vector<std::string> changes;  ///< what will be different wherever it goes, one line each
};

/// Looks at `pid` without stopping it. Throws Refusal(cannot_trace) when it can't be attached to
/// (gone, zombie, someone else's, traced, kernel thread, this process, 32-bit),
/// Refusal(cannot_carry) naming everything that can't be taken along.
Examination examine(pid_t pid, const Options& options);
/// The same, with what can't be taken along as `obstacles` and no exception.
Examination look_at(pid_t pid, const Options& options);
/// The examination as a snapshot, as far as it tells: who only wants to describe the process.
image::Snapshot sketch_of(const Examination& examination);

/// A frozen process being read. All calls from the thread that built it (ptrace's rule).
class Capture {
 public:
  /// Freezes the examined process and takes its snapshot. Clean pages or contents of the files
  /// whose paths are in `present` are not carried: the destination has them. In a copy the original
  /// goes on as soon as what a fork does not copy has been read: before this returns, if that is
  /// little.
  Capture(const Examination& examination, const Options& options,
          const std::set<std::string>& present);
  /// Lets the original go on, unharmed, unless it was ended or left stopped.
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  const image::Snapshot& snapshot() const;
  std::span<const image::DataRun> runs() const;
  /// The next page data, in the order of runs(), each run padded with zeros to a page. Fills
  /// `buffer` but for the last time; gives the number of bytes, 0 at the end. Throws ProcessGone,
  /// Error, Refusal(interrupted).
  size_t read(std::span<std::byte> buffer);

  /// The original's own ends of what is relayed, by Description id.
  std::map<uint32_t, UniqueFd> take_relays();
  /// Of a move into a file: the original's connections to elsewhere, for the holder.
  std::vector<KeptSocket> take_kept();

  /// How long the original has been (or was) frozen.
  std::chrono::nanoseconds paused() const;
  /// Before the commit of a move: the original stays frozen (stopped, as by SIGSTOP) even if this
  /// program dies.
  void hold_original();
  /// The commit of a move: SIGKILL. Returns when it is gone.
  void end_original();
  /// The commit of a move whose pid stays: all of the original but its pid ends. It then waits,
  /// with all signals blocked, for somebody to make a Ghost of it, who is to know which signals the
  /// child has.
  CarriedSignals leave_ghost();
  /// To be called when somebody else is about to end the original. Throws ProcessGone, Error.
  void note_losses();
  /// What its end has taken with it, a line each: signals that came while it was captured.
  const std::vector<std::string>& losses() const;
  /// The original goes on, now.
  void release();
  /// The original stays stopped and is left so (in doubt): SIGCONT lets it go on, SIGKILL ends it.
  void leave_stopped();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rfork::tracer
