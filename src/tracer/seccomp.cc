#include "tracer/seccomp.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ptrace.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/io.h"
#include "image/privileges.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

constexpr const char* kAdvice =
    "start it without the sandbox (systemd: SystemCallFilter=, browsers: --no-sandbox)";

int mode_of(const std::map<std::string, std::string, std::less<>>& status) {
  const auto found = status.find("Seccomp");
  return found == status.end() ? 0 : std::stoi(found->second);
}

// The first restricted thread's mode; and whether one has a filter that it could not set again.
struct Restriction {
  int mode = 0;
  bool needs_privilege = false;
};
Restriction restriction_of(pid_t pid) {
  Restriction result;
  const std::string path = fmt::format("/proc/{}/task", pid);
  for (const pid_t tid : try_list_numbers(path).value_or(std::vector<int>())) {
    const auto text = try_read_file_at(AT_FDCWD, fmt::format("{}/{}/status", path, tid));
    if (!text) continue;
    const auto status = parse_status(*text);
    const int mode = mode_of(status);
    if (mode == SECCOMP_MODE_DISABLED) continue;
    if (result.mode == 0) result.mode = mode;
    const auto found = status.find("NoNewPrivs");
    if (mode == SECCOMP_MODE_FILTER && (found == status.end() || found->second != "1"))
      result.needs_privilege = true;
  }
  return result;
}

// Whether the program can give that action as it stands; one that computes its result can't be
// told.
bool may_return(const Bytes& program, uint32_t action) {
  for (size_t at = 0; at + sizeof(sock_filter) <= program.size(); at += sizeof(sock_filter)) {
    sock_filter op;
    std::memcpy(&op, program.data() + at, sizeof op);
    if (BPF_CLASS(op.code) == BPF_RET && BPF_RVAL(op.code) == BPF_K &&
        (op.k & SECCOMP_RET_ACTION_FULL) == action) {
      return true;
    }
  }
  return false;
}

// nullopt: there is none of that number. The oldest has the number 0.
std::optional<image::SeccompFilter> read_filter(pid_t tid, uint64_t index) {
  const long count = ::ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, nullptr);
  if (count < 0 && errno == ENOENT) return std::nullopt;
  image::SeccompFilter filter;
  if (count >= 0) filter.program.resize(static_cast<size_t>(count) * sizeof(sock_filter));
  if (count < 0 || ::ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, filter.program.data()) < 0)
    throw_errno("PTRACE_SECCOMP_GET_FILTER", fmt::format("tid {}", tid));
  // struct seccomp_metadata; since Linux 4.16.
  struct {
    uint64_t index, flags;
  } metadata{index, 0};
  if (::ptrace(PTRACE_SECCOMP_GET_METADATA, tid, sizeof metadata, &metadata) >= 0)
    filter.log = (metadata.flags & SECCOMP_FILTER_FLAG_LOG) != 0;
  return filter;
}

void refuse_what_asks_others(pid_t tid, const image::SeccompFilter& filter) {
  for (const uint32_t action : {SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE}) {
    if (!may_return(filter.program, action)) continue;
    throw Refusal(
        Failure::cannot_carry,
        fmt::format("thread {} has a seccomp filter that asks another process ({}), "
                    "which doesn't come along",
                    tid,
                    action == SECCOMP_RET_TRACE ? "SECCOMP_RET_TRACE" : "SECCOMP_RET_USER_NOTIF"),
        kAdvice);
  }
}

}  // namespace

bool may_read_filters() {
  if (!image::has_global_capability(CAP_SYS_ADMIN)) return false;
  return mode_of(parse_status(read_file("/proc/self/status"))) == SECCOMP_MODE_DISABLED;
}

void find_seccomp_obstacles(pid_t pid, std::vector<Reason>& obstacles) {
  const Restriction restriction = restriction_of(pid);
  if (restriction.mode == SECCOMP_MODE_DISABLED) return;
  if (!may_read_filters()) {
    obstacles.push_back(
        {fmt::format("process {} runs under seccomp (mode {}), which can't be carried without "
                     "CAP_SYS_ADMIN here",
                     pid, restriction.mode),
         fmt::format("let root trace it, or {}", kAdvice)});
  } else if (restriction.needs_privilege) {
    obstacles.push_back(
        {fmt::format("process {} has a seccomp filter and no no_new_privs, without which it could "
                     "not set it again",
                     pid),
         kAdvice});
  }
}

unsigned seccomp_option(pid_t pid) {
  const bool restricted = restriction_of(pid).mode != SECCOMP_MODE_DISABLED;
  return restricted && may_read_filters() ? PTRACE_O_SUSPEND_SECCOMP : 0;
}

void read_seccomp(pid_t tid, int mode, image::Process& process, image::Thread& thread) {
  thread.seccomp_mode = mode;
  if (mode != SECCOMP_MODE_FILTER) return;
  std::vector<image::SeccompFilter>& known = process.seccomp_filters;
  for (uint64_t index = 0;; ++index) {
    auto filter = read_filter(tid, index);
    if (!filter) break;
    refuse_what_asks_others(tid, *filter);
    const auto same = std::ranges::find_if(known, [&](const image::SeccompFilter& other) {
      return other.program == filter->program && other.log == filter->log;
    });
    thread.seccomp_filters.push_back(static_cast<uint32_t>(same - known.begin()));
    if (same == known.end()) known.push_back(*std::move(filter));
  }
}

}  // namespace rfork::tracer
