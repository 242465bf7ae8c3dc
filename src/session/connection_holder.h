// The process that stays when one with TCP connections was moved into a file, and has these
// connections until rfork-run takes them on.
//
// To the other ends the program looks stopped: the kernel goes on acknowledging until its buffers
// are full. The holder is rfork-trace once more, without anything of the first one's; nobody waits
// for it. What is said is in image/connection_holder.h. Who holds what when somebody dies:
//
//   rfork-trace, before the commit     the holder lets go; the original goes on
//   rfork-trace, in the commit         the original is stopped then (SIGSTOP, beneath ptrace's
//                                      stop), and the holder alone decides: it was told to end it,
//                                      or it wasn't and lets it go on
//   the holder, before the commit      refused; the original goes on
//   rfork-run, before the child runs   the holder has them still. The child itself says `taken`
//                                      between GO and its first step, so nobody can run with a
//                                      connection that is given away once more
//   the holder, later                  the connections are closed as by any process that ends
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "tracer/capture.h"

namespace rfork::session {

class ConnectionHolder {
 public:
  /// Starts it. `words`: of whom it holds what, for who looks at the list of processes. Throws
  /// Error.
  explicit ConnectionHolder(const std::string& words);
  /// Ends it, unless end_original() was called.
  ~ConnectionHolder() = default;
  ConnectionHolder(const ConnectionHolder&) = delete;
  ConnectionHolder& operator=(const ConnectionHolder&) = delete;

  /// What the image says of it.
  const image::ConnectionHolder& described() const { return described_; }
  /// It has them too from here on. Throws Error.
  void hold(const std::vector<tracer::KeptSocket>& sockets, uid_t owner);
  /// Before the original is stopped for the commit: from here on the holder lets it go on if we
  /// end. `stopped`: it was stopped by job control, and stays so. Throws.
  void prepare(pid_t original, bool stopped);
  /// The commit: SIGKILL to the original, and it keeps the sockets when we end. Throws Refusal; the
  /// original goes on then, unless that says otherwise.
  void end_original(pid_t original);

 private:
  UniqueFd line_;
  image::ConnectionHolder described_;
};

/// Whether this program was started to be a holder.
bool is_connection_holder(int argc, char** argv);
/// Its life. `line` leads to rfork-trace, `listening` is bound. Gives the exit status.
int hold_connections(UniqueFd line, UniqueFd listening);
/// The same, with the descriptors that ConnectionHolder hands over.
int hold_connections();

}  // namespace rfork::session
