// What rfork-trace tells a program that called it through rfork/rfork.h.
#pragma once

#include <exception>
#include <string>

namespace rfork {

/// Where in the work a failure came, for its errno.
struct CallerStage {
  bool connected = false;    ///< the destination has the same key
  bool out_of_time = false;  ///< the caller's own limit has passed
};

/// In place of an errno: the caller is to fork now, and another report follows.
constexpr int kReadyForFork = -1;

/// Writes struct rfork_report to `fd`: an errno (0: done) and a sentence. Nobody may be there to
/// read it.
void report_to_caller(int fd, int error, const std::string& sentence);
/// Throws Error(ENOMEM or EMFILE) when this process's limits leave it less than it may need: better
/// now than when a child depends on it. `encrypts`: OpenSSL will be used, with a thread.
void check_own_limits(bool encrypts);
/// The errno that rfork(3) documents for a failure.
int errno_of(const std::exception& error, const CallerStage& stage);
/// All its reasons as one sentence.
std::string sentence_of(const std::exception& error);

}  // namespace rfork
