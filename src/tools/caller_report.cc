#include "tools/caller_report.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <system_error>

#include "base/error.h"
#include "base/text.h"
#include "base/unique_fd.h"
#include "net/ssh.h"

namespace rfork {

namespace {

/// struct rfork_report of rfork/rfork.h, which can't be included where a namespace is called rfork.
struct CallerReport {
  int32_t error;
  char text[1020];
};

constexpr size_t kNeededDescriptors = 16;  // measured: 15, and one for each relay

}  // namespace

void report_to_caller(int fd, int error, const std::string& sentence) {
  CallerReport report{};
  report.error = error;
  const size_t size = std::min(sentence.size(), sizeof report.text - 1);
  std::memcpy(report.text, sentence.data(), size);
  [[maybe_unused]] const ssize_t written = ::write(fd, &report, sizeof report);
}

void check_own_limits(bool encrypts) {
  // Measured: 20 MiB with OpenSSL, 3 without, and up to 512 KiB for each relay.
  const size_t memory = (encrypts ? 32u : 8u) << 20;
  void* const probe =
      ::mmap(nullptr, memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (probe == MAP_FAILED) {
    throw Error("rfork-trace needs more memory than its limits (ulimit -v, -d) leave,", ENOMEM,
                human_bytes(memory));
  }
  ::munmap(probe, memory);
  std::array<UniqueFd, kNeededDescriptors> free;
  for (UniqueFd& fd : free) {
    fd.reset(::open("/", O_PATH | O_CLOEXEC));
    if (!fd) {
      throw Error("rfork-trace needs more descriptors than its limit (ulimit -n) leaves,", errno,
                  std::to_string(kNeededDescriptors));
    }
  }
}

int errno_of(const std::exception& error, const CallerStage& stage) {
  if (stage.out_of_time) return ETIMEDOUT;
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return ENOMEM;
  const auto* refusal = dynamic_cast<const Refusal*>(&error);
  if (refusal == nullptr) {
    // Of the system, not of the resolver; std::thread's too, which no Error is.
    const auto* failed = dynamic_cast<const std::system_error*>(&error);
    const bool known = failed != nullptr && (failed->code().category() == std::system_category() ||
                                             failed->code().category() == std::generic_category());
    return known && failed->code().value() != 0 ? failed->code().value() : EIO;
  }
  if (const auto* ssh = dynamic_cast<const net::SshRefusal*>(refusal)) return ssh->error();
  switch (refusal->failure()) {
    case Failure::usage:
      return EINVAL;
    case Failure::cannot_trace:
      return EPERM;
    case Failure::cannot_carry:
      return ENOTSUP;
    case Failure::destination_refused:
      return stage.connected ? ENOEXEC : EACCES;
    case Failure::connection_lost:
      return stage.connected ? ECONNABORTED : EHOSTUNREACH;
    case Failure::in_doubt:
      return EINPROGRESS;
    case Failure::interrupted:
      return EINTR;
    case Failure::internal:
    case Failure::bad_image:
      break;
  }
  return EIO;
}

std::string sentence_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return "rfork-trace has not got the memory that it needs";
  }
  const auto* refusal = dynamic_cast<const Refusal*>(&error);
  if (refusal == nullptr) return error.what();
  std::string sentence;
  for (const Reason& reason : refusal->reasons()) {
    sentence += (sentence.empty() ? "" : "; ") + reason.line();
  }
  return sentence;
}

}  // namespace rfork
