#include "tracer/ptrace.h"

#include <linux/ptrace.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "base/error.h"

namespace rfork::tracer {

namespace {

std::string tid_text(pid_t tid) {
  return "tid " + std::to_string(tid);
}

// glibc's ptrace() takes an enum that lacks the newer requests.
long call(unsigned request, pid_t tid, uint64_t address, void* data) {
  return ::ptrace(static_cast<__ptrace_request>(request), tid, address, data);
}

long checked(const char* name, unsigned request, pid_t tid, uint64_t address, void* data) {
  const long result = call(request, tid, address, data);
  if (result == -1 && errno == ESRCH) throw ProcessGone(tid);
  if (result == -1) throw_errno(name, tid_text(tid));
  return result;
}

void* as_data(uint64_t value) {
  return reinterpret_cast<void*>(value);
}

}  // namespace

int try_seize(pid_t tid, unsigned options) {
  return call(PTRACE_SEIZE, tid, 0, as_data(options)) == -1 ? errno : 0;
}

void set_options(pid_t tid, unsigned options) {
  checked("PTRACE_SETOPTIONS", PTRACE_SETOPTIONS, tid, 0, as_data(options));
}

void interrupt(pid_t tid) {
  checked("PTRACE_INTERRUPT", PTRACE_INTERRUPT, tid, 0, nullptr);
}

void resume(pid_t tid, int request, int signal) {
  checked("PTRACE_CONT", static_cast<unsigned>(request), tid, 0,
          as_data(static_cast<uint64_t>(signal)));
}

bool detach(pid_t tid, int signal) noexcept {
  return call(PTRACE_DETACH, tid, 0, as_data(static_cast<uint64_t>(signal))) != -1;
}

uint64_t event_message(pid_t tid) {
  unsigned long message = 0;
  checked("PTRACE_GETEVENTMSG", PTRACE_GETEVENTMSG, tid, 0, &message);
  return message;
}

user_regs_struct registers(pid_t tid) {
  user_regs_struct result{};
  checked("PTRACE_GETREGS", PTRACE_GETREGS, tid, 0, &result);
  return result;
}

void set_registers(pid_t tid, const user_regs_struct& registers) {
  user_regs_struct copy = registers;
  checked("PTRACE_SETREGS", PTRACE_SETREGS, tid, 0, &copy);
}

Bytes regset(pid_t tid, unsigned type, const char* name) {
  Bytes buffer(64 * 1024);
  iovec io{buffer.data(), buffer.size()};
  const std::string operation = std::string("PTRACE_GETREGSET(") + name + ")";
  checked(operation.c_str(), PTRACE_GETREGSET, tid, type, &io);
  buffer.resize(io.iov_len);
  return buffer;
}

uint64_t signal_mask(pid_t tid) {
  uint64_t mask = 0;
  checked("PTRACE_GETSIGMASK", PTRACE_GETSIGMASK, tid, sizeof mask, &mask);
  return mask;
}

void set_signal_mask(pid_t tid, uint64_t mask) {
  checked("PTRACE_SETSIGMASK", PTRACE_SETSIGMASK, tid, sizeof mask, &mask);
}

std::vector<image::PendingSignal> pending_signals(pid_t tid, bool shared) {
  constexpr int kBatch = 32;
  static_assert(sizeof(siginfo_t) == sizeof(image::PendingSignal));
  std::vector<image::PendingSignal> all;
  for (;;) {
    image::PendingSignal batch[kBatch];
    __ptrace_peeksiginfo_args args{};
    args.off = all.size();
    args.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0;
    args.nr = kBatch;
    const long n = checked("PTRACE_PEEKSIGINFO", PTRACE_PEEKSIGINFO, tid,
                           reinterpret_cast<uint64_t>(&args), batch);
    all.insert(all.end(), batch, batch + n);
    if (n < kBatch) return all;
  }
}

image::Rseq rseq_configuration(pid_t tid) {
  ptrace_rseq_configuration configuration{};
  checked("PTRACE_GET_RSEQ_CONFIGURATION", PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof configuration,
          &configuration);
  return {configuration.rseq_abi_pointer, configuration.rseq_abi_size, configuration.signature,
          configuration.flags};
}

uint64_t peek_user(pid_t tid, size_t offset) {
  uint64_t word = 0;  // where the system call itself puts it
  if (::syscall(SYS_ptrace, PTRACE_PEEKUSER, tid, offset, &word) != 0) {
    if (errno == ESRCH) throw ProcessGone(tid);
    throw_errno("PTRACE_PEEKUSER", tid_text(tid));
  }
  return word;
}

void poke(pid_t tid, uint64_t address, uint64_t word) {
  checked("PTRACE_POKEDATA", PTRACE_POKEDATA, tid, address, as_data(word));
}

WaitStatus wait_for(pid_t tid) {
  int status = 0;
  for (;;) {
    if (::waitpid(tid, &status, __WALL) == tid) return WaitStatus(status);
    if (errno == ECHILD) throw ProcessGone(tid);
    if (errno != EINTR) throw_errno("waitpid", tid_text(tid));
  }
}

std::optional<WaitStatus> wait_for(pid_t tid, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  auto nap = std::chrono::microseconds(5);
  for (;;) {
    int status = 0;
    const pid_t result = ::waitpid(tid, &status, __WALL | WNOHANG);
    if (result == tid) return WaitStatus(status);
    if (result < 0 && errno == ECHILD) throw ProcessGone(tid);
    if (result < 0 && errno != EINTR) throw_errno("waitpid", tid_text(tid));
    if (std::chrono::steady_clock::now() >= deadline) return std::nullopt;
    std::this_thread::sleep_for(nap);
    nap = std::min(nap * 2, std::chrono::microseconds(1000));
  }
}

}  // namespace rfork::tracer
