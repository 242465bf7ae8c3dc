// An rforkd on another host that an ssh client starts for one connection, and speaks with through
// its standard input and output.
//
//   ssh -T -o BatchMode=yes ... USER@HOST rforkd --stdio
//
// RFORK_SSH names another ssh with its options, split at blanks; RFORK_RFORKD what is run there,
// for the shell there to read. Options of RFORK_SSH and of ssh's own configuration come before
// ours.
//
// ssh has a session of its own: a terminal's Ctrl-C is not for it, and it outlives this process for
// as long as somebody (the attendant of a ghost) holds the pipes. What it says on stderr goes into
// a file without a name, not to our stderr: nobody who waits for our stderr's end waits for ssh,
// and what it said last can be told with the error that it explains.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

#include "base/error.h"
#include "net/address.h"
#include "net/connection.h"
#include "net/transport.h"

namespace rfork::net {

/// No rforkd has been reached, and why, as far as ssh says.
class SshRefusal : public Refusal {
 public:
  /// `error`: EHOSTUNREACH, EACCES (the key or the host's key), ENOSYS (no rforkd there).
  SshRefusal(int error, std::string what, std::string advice)
      : Refusal(Failure::connection_lost, std::move(what), std::move(advice)), error_(error) {}
  int error() const { return error_; }

 private:
  int error_;
};

class Ssh {
 public:
  /// Starts ssh. Throws Refusal(connection_lost) when there is no such program.
  explicit Ssh(const Address& address);
  /// Ends ssh if nobody greeted; else it ends by itself when its pipes are closed.
  ~Ssh();
  Ssh(const Ssh&) = delete;
  Ssh& operator=(const Ssh&) = delete;

  /// The pipes; once.
  Transport take_transport();
  /// An rforkd was heard through it.
  void greeted() { greeted_ = true; }

  /// Why no rforkd was heard, in place of `lost`. `connection` is read a little further, to tell
  /// how much else came in place of a greeting.
  [[noreturn]] void explain_silence(const Refusal& lost, Connection& connection);
  /// Why a connection was lost later: with what ssh said of it.
  [[noreturn]] void explain_loss(const Refusal& lost);

 private:
  /// How ssh ended, as wait(2) tells; nullopt when it doesn't within `patience`.
  std::optional<int> wait_for_end(std::chrono::milliseconds patience);
  void end();
  std::string last_words() const;

  std::string where_;  ///< as the person wrote it
  std::string program_;
  pid_t pid_ = -1;
  std::optional<int> end_;
  bool greeted_ = false;
  UniqueFd input_, output_;  ///< ours: to read from, to write to
  UniqueFd messages_;        ///< what ssh wrote on stderr
};

}  // namespace rfork::net
