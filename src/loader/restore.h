// Turns an image into a live process on this host.
//
// The caller (a daemon's worker, or rfork-run) is the feeder: it reads the image from wherever it
// comes, digests it, and hands the page data over in slots of memory shared with the stub. The
// child becomes ready when all data is in place, and runs only after go(). Never uses ptrace.
//
//   Restore restore(metadata, options);       // checks everything against this host, throws
//   Refusal restore.start();                          // forks the child-to-be, which execs the
//   stub while (data left) { auto slot = restore.next_slot(); n = read into slot;
//   restore.submit(n); } verifier.check(trailer); pid = restore.wait_ready(); restore.go(); // or
//   let the destructor end the child
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
#include "loader/named_user.h"

namespace rfork::loader {

enum class PidMode {
  keep,   ///< the pid and tids of the image, in a pid namespace of its own if they are taken; else
          ///< refused
  fresh,  ///< whatever the kernel gives; tids that libc keeps in memory are corrected
  automatic,  ///< keep if it can be had, else fresh
};

struct Options {
  PidMode pid_mode = PidMode::automatic;
  bool ignore_cpu = false;
  /// What stands in for pipes, sockets and terminals on 0, 1, 2. Borrowed. -1: /dev/null.
  int stdio_input = -1, stdio_output = -1, stdio_error = -1;
  /// What stands in for relayed descriptions, by id. Borrowed.
  std::map<uint32_t, int> relays;
  /// The child stays in the caller's session and process group (foreground); else it gets a session
  /// of its own.
  bool foreground = false;
  /// Run as this user (the daemon started by root). Unset: as the image says when this process is
  /// root and `as_image_user`, else as whoever runs this.
  std::optional<NamedUser> user;
  bool as_image_user = false;
  /// Files that the caller has opened already as those the image names, by File id. Read-only
  /// descriptors are for mapping; borrowed.
  std::map<uint32_t, int> agreed_files;
  /// A named file that exists here with other contents than the image's is replaced; else refused.
  bool overwrite_files = false;
  /// An open file that is another here, or shorter than at the capture, is taken as it is; else
  /// refused.
  bool changed_files = false;
  /// The original of a move stands frozen until go() has returned: file locks that it holds are
  /// free only then.
  bool original_waits = false;
  /// Goes on without the locks that others hold here.
  bool drop_locks = false;
  /// What needs a privilege that this process lacks stays as it is here.
  bool drop_attributes = false;
  /// Sockets whose address this host doesn't have are bound to any address.
  bool any_address = false;
  /// Connections that the image's holder has are taken on: for who runs a file of this host.
  bool take_held = false;
  /// TCP connections to elsewhere whose address moves here are made, with all of this process's
  /// rights: whoever gives the image could claim any address.
  bool remake_connections = false;
  /// How long the stub may take for one step before it is given up.
  std::chrono::milliseconds step_timeout{60'000};
};

/// How a child ended; as wait(2) tells.
struct ChildEnd {
  bool signalled = false;
  int code = 0;  ///< exit status, or signal number
  bool core_dumped = false;
};

/// The child's end, from the status of Restore::wait_pid() that wait(2) gave and
/// Restore::end_pipe(), or a duplicate of it.
ChildEnd child_end(int wait_status, int end_pipe);
/// Ends this process as the child ended, without a core file of its own.
[[noreturn]] void end_as(const ChildEnd& end);

class Restore {
 public:
  /// Checks the image against this host, opens and creates every file it needs, chooses addresses
  /// and builds the plan. Nothing runs yet; files that it created are removed again unless go() is
  /// reached. Throws Refusal(destination_refused) with every reason that it found.
  Restore(const image::Metadata& metadata, const Options& options);
  ~Restore();  ///< ends a child that has not been let go, and reaps it
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

  /// What is different here, and was accepted: one line each ("RLIMIT_NOFILE: hard limit 1048576
  /// can't be set here, 20000 stays"). Complete after the constructor.
  const std::vector<std::string>& warnings() const;
  /// What the child's pid will be, if nobody takes it meanwhile.
  struct PidOutlook {
    bool kept = false;
    bool in_namespace = false;  ///< of its own
  };
  PidOutlook pid_outlook() const;

  /// Forks the child and execs the stub in it.
  void start();
  /// A free slot to be filled with the next page data (up to 256 KiB); waits for the stub. Throws
  /// Refusal or Error when the stub failed, with the step in words.
  std::span<std::byte> next_slot();
  /// The first `size` bytes of the slot are the next page data.
  void submit(size_t size);
  /// After the last data: waits until every thread stands before its last step. Gives the child's
  /// pid as this host's processes see it.
  pid_t wait_ready();
  /// Lets it run. After this the child is a child process of the caller that nobody ends.
  void go();
  /// The process to wait for: the child itself, or the init of its pid namespace, which ends as the
  /// child ends (128 + signal when a signal ended the child; see child_end()).
  pid_t wait_pid() const;
  /// Where the init of a pid namespace tells how its child ended; -1 when the child itself is
  /// waited for. Borrowed: who waits for longer than this object lives keeps a duplicate.
  int end_pipe() const;
  /// The child's end, from the status of wait_pid() that wait(2) gave.
  ChildEnd child_end(int wait_status);
  /// The pid that the child sees of itself.
  pid_t inner_pid() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rfork::loader
