// What goes wrong, as data.
//
// Two types, because two things go wrong:
//   Error   a call failed that should not have: operation, subject (pid, tid, address, path),
//   errno. Refusal this can't be done, and that is an answer: one line a reason, each with what to
//   do.
// Both carry the Failure that decides a program's exit code. main() catches them and prints; a
// coroutine's root replies with them; nothing in between swallows them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace rfork {

/// Why a program ends without having done its work. The values are the documented exit codes.
enum class Failure : int {
  internal = 1,      ///< a call failed that should not have
  usage = 2,         ///< the command line is wrong
  cannot_trace = 3,  ///< the process can't be attached to: gone, not ours, traced already, ...
  cannot_carry = 4,  ///< the process has something that can't be taken along
  destination_refused = 5,  ///< the other host said no: key, user, CPU, files, ...
  connection_lost = 6,      ///< no connection, or it broke; the original goes on
  in_doubt = 7,             ///< can't be known which side runs; the original stays frozen
  bad_image = 8,            ///< the image is cut, altered, of a later version or no image at all
  interrupted = 130,        ///< SIGINT or SIGTERM; the original goes on
};

/// Lower-case word for `failure`, as `--json` prints it ("cannot_carry").
std::string_view name_of(Failure failure);

/// A call that failed. what() reads `OPERATION SUBJECT: strerror`, for example
/// `PTRACE_GETREGSET(NT_X86_XSTATE) tid 4711: No such process`.
class Error : public std::system_error {
 public:
  /// `errno_value` is positive, as in errno; `subject` names a pid, tid, address or path, or is
  /// empty.
  Error(std::string_view operation, int errno_value, std::string_view subject = {},
        Failure failure = Failure::internal);

  Failure failure() const { return failure_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  Failure failure_;
  std::string text_;
};

/// Throws Error for the current errno.
[[noreturn]] void throw_errno(std::string_view operation, std::string_view subject = {});

/// One reason why not, for the person at the terminal.
struct Reason {
  std::string what;  ///< what, on what, and why: `descriptor 5 is an inotify instance, which can't
                     ///< be carried`
  std::string advice;  ///< what to do about it: `--drop-fd 5 goes on without it`; may be empty

  /// `what; advice` on one line.
  std::string line() const;
};

/// The answer no, with every reason that is known. Never empty.
class Refusal : public std::exception {
 public:
  Refusal(Failure failure, std::vector<Reason> reasons);
  Refusal(Failure failure, std::string what, std::string advice = {});

  Failure failure() const { return failure_; }
  const std::vector<Reason>& reasons() const { return reasons_; }
  /// All lines, separated by newlines.
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  Failure failure_;
  std::vector<Reason> reasons_;
  std::string text_;
};

/// The process that was being worked on has ended. Its own type, because callers must handle it.
class ProcessGone : public std::exception {
 public:
  explicit ProcessGone(int pid);
  int pid() const { return pid_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  int pid_;
  std::string text_;
};

/// What a main() does with any exception of these: prints `PROGRAM: line` for each line on stderr
/// (with `json`: one object {"error": WORD, "reasons": [{"what", "advice"}]} on stdout instead) and
/// gives the exit code.
int report_failure(std::string_view program, const std::exception& error, bool json = false);

}  // namespace rfork
