#include "loader/identity.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "base/clock.h"
#include "base/error.h"
#include "base/io.h"
#include "base/text.h"
#include "image/capability_words.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace rfork::loader {

bool has_capability(unsigned capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) < 0) return false;
  return (data[capability / 32].effective >> (capability % 32) & 1) != 0;
}

uint64_t own_permitted_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) < 0) return 0;
  return data[0].permitted | uint64_t{data[1].permitted} << 32;
}

// --- the user ---

namespace {

TargetUser user_of_this_host(const NamedUser& named) {
  TargetUser user;
  user.real = user.effective = user.saved = named.uid;
  user.real_group = user.effective_group = user.saved_group = named.gid;
  user.groups = named.groups;
  user.name = named.name;
  return user;
}

}  // namespace

TargetUser user_of_image(const image::Credentials& there) {
  TargetUser user;
  user.real = there.uid, user.effective = there.euid, user.saved = there.suid;
  user.real_group = there.gid, user.effective_group = there.egid, user.saved_group = there.sgid;
  user.groups.assign(there.groups.begin(), there.groups.end());
  user.name = there.user;
  user.image_capabilities = true;
  return user;
}

std::optional<TargetUser> target_user(const image::Process& process, const Options& options,
                                      Findings& findings) {
  const bool may_change =
      ::geteuid() == 0 && has_capability(CAP_SETUID) && has_capability(CAP_SETGID);
  if (options.user) {
    TargetUser user = user_of_this_host(*options.user);
    if (!may_change && user.effective == ::geteuid()) return std::nullopt;
    if (!may_change) {
      findings.refuse(
          fmt::format("running as {} needs to be root with CAP_SETUID and CAP_SETGID", user.name));
    }
    return user;
  }
  if (!options.as_image_user || ::geteuid() != 0) return std::nullopt;
  if (!may_change) {
    if (process.credentials.euid != 0)
      findings.warn("the child runs as root: CAP_SETUID and CAP_SETGID are missing");
    return std::nullopt;
  }
  const uint64_t missing = process.credentials.cap_permitted & ~own_permitted_capabilities();
  if (missing != 0)
    findings.warn(fmt::format("the child lacks capabilities that this process has not: {}",
                              image::capability_words(missing)));
  return user_of_image(process.credentials);
}

void check_thread_credentials(const image::Process& process, const std::optional<TargetUser>& user,
                              bool lenient, Findings& findings) {
  const bool any =
      std::ranges::any_of(process.threads, [](const auto& one) { return bool(one.credentials); });
  if (!any || (user && user->image_capabilities)) return;
  constexpr const char* kWhat = "threads have users or capabilities of their own";
  if (lenient) {
    findings.warn(fmt::format("{}: all get the same here", kWhat));
  } else {
    findings.refuse(fmt::format("{}, which needs root here", kWhat),
                    "--drop-attributes gives all the same");
  }
}

ActAs::ActAs(const std::optional<TargetUser>& user) : uid_(::geteuid()), gid_(::getegid()) {
  if (!user || (user->effective == uid_ && user->effective_group == gid_)) return;
  const int count = ::getgroups(0, nullptr);
  groups_.resize(static_cast<size_t>(std::max(count, 0)));
  if (::getgroups(count, groups_.data()) < 0) throw_errno("getgroups");
  active_ = true;
  dumpable_ = ::prctl(PR_GET_DUMPABLE);
  if (::setgroups(user->groups.size(), user->groups.data()) < 0 ||
      ::setegid(user->effective_group) < 0 || ::seteuid(user->effective) < 0) {
    throw_errno("take the rights of user", std::to_string(user->effective));
  }
}

ActAs::~ActAs() {
  if (!active_) return;
  // Nothing sensible can follow when the own rights don't come back.
  if (::seteuid(uid_) < 0 || ::setegid(gid_) < 0 ||
      ::setgroups(groups_.size(), groups_.data()) < 0) {
    std::terminate();
  }
  // A change of the user takes it away, and with it this process's own files in /proc.
  if (dumpable_ == 1) ::prctl(PR_SET_DUMPABLE, 1);
}

namespace {

/// Without a word where it isn't permitted: what needs it says so.
void set_capability(unsigned capability, bool effective) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) < 0) return;
  __user_cap_data_struct& part = data[capability / 32];
  const uint32_t bit = 1u << capability % 32;
  part.effective = effective ? part.effective | (bit & part.permitted) : part.effective & ~bit;
  (void)::syscall(SYS_capset, &header, data);
}

}  // namespace

HeldCapability::HeldCapability(unsigned capability, bool held)
    : capability_(capability), before_(has_capability(capability)) {
  if (held != before_) set_capability(capability_, held);
}

HeldCapability::~HeldCapability() {
  if (has_capability(capability_) != before_) set_capability(capability_, before_);
}

// --- namespaces ---

bool can_unshare(int flags, const char* write) {
  const pid_t child = ::fork();
  if (child < 0) return false;
  if (child == 0) {
    const bool can = ::unshare(flags) == 0 && (write == nullptr || ::open(write, O_WRONLY) >= 0);
    ::_exit(can ? 0 : 1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

namespace {

constexpr int64_t kSecond = 1'000'000'000;

/// Offsets of the caller's own time namespace, to which the child's are added.
ClockOffsets own_offsets() {
  ClockOffsets offsets;
  const auto text = try_read_file_at(AT_FDCWD, "/proc/self/timens_offsets");
  if (!text) return offsets;
  std::istringstream lines(*text);
  std::string clock;
  int64_t seconds, nanoseconds;
  while (lines >> clock >> seconds >> nanoseconds) {
    const int64_t value = seconds * kSecond + nanoseconds;
    if (clock == "monotonic" || clock == "1") offsets.monotonic_ns = value;
    if (clock == "boottime" || clock == "7") offsets.boottime_ns = value;
  }
  return offsets;
}

/// By how much the child's clocks must be moved; nullopt when they may stay: at most one second
/// ahead.
std::optional<ClockOffsets> clock_difference(const image::Snapshot& snapshot) {
  const int64_t monotonic = snapshot.monotonic_ns - clock_ns(CLOCK_MONOTONIC);
  const int64_t boottime = snapshot.boottime_ns - clock_ns(CLOCK_BOOTTIME);
  const auto stays = [](int64_t difference) { return difference <= 0 && difference >= -kSecond; };
  if (stays(monotonic) && stays(boottime)) return std::nullopt;
  return ClockOffsets{monotonic, boottime};
}

/// Whether a thread has this number, or a process group.
bool exists(int32_t tid) {
  return ::access(fmt::format("/proc/{}", tid).c_str(), F_OK) == 0 || ::kill(tid, 0) == 0 ||
         errno == EPERM || ::kill(-tid, 0) == 0 || errno == EPERM;
}

const char* why_not_kept(bool may_set_tid) {
  return may_set_tid ? "it or a thread's is taken, and no pid namespace can be made here"
                     : "neither CAP_CHECKPOINT_RESTORE nor a user namespace can be had here";
}

bool ids_are_free(const image::Process& process) {
  return std::none_of(process.threads.begin(), process.threads.end(),
                      [](const image::Thread& thread) { return exists(thread.tid); });
}

}  // namespace

bool parent_stays(const Place& place, const Options& options) {
  return place.pid_namespace || options.foreground;
}

std::vector<Place> choose_places(const image::Snapshot& snapshot, const Options& options,
                                 bool ipc_namespace, Findings& findings) {
  const image::Process& process = snapshot.processes[0];
  const bool admin = has_capability(CAP_SYS_ADMIN);
  const bool may_set_tid = admin || has_capability(CAP_CHECKPOINT_RESTORE);
  std::optional<ClockOffsets> clocks = clock_difference(snapshot);
  const std::optional<ClockOffsets> jump = clocks;

  const bool wants_ids = options.pid_mode != PidMode::fresh;
  const bool ids_here = wants_ids && may_set_tid && ids_are_free(process);
  const bool wants_namespace = wants_ids && !ids_here;
  bool user_namespace = false;
  if (!admin && (clocks || wants_namespace || ipc_namespace)) {
    user_namespace = can_unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS);
  }
  const bool namespaces =
      admin ? wants_namespace && can_unshare(CLONE_NEWPID | CLONE_NEWNS) : user_namespace;
  const bool may_set_clocks = user_namespace || (admin && has_capability(CAP_SYS_TIME));
  if (clocks &&
      !(may_set_clocks && can_unshare(CLONE_NEWTIME | (user_namespace ? CLONE_NEWUSER : 0)))) {
    clocks.reset();
  }
  if (clocks) {
    const ClockOffsets own = own_offsets();
    clocks->monotonic_ns += own.monotonic_ns;
    clocks->boottime_ns += own.boottime_ns;
  }
  if (jump && !clocks) {
    findings.warn(fmt::format("CLOCK_MONOTONIC jumps {} by {}: no time namespace can be made here",
                              jump->monotonic_ns > 0 ? "back" : "ahead",
                              human_duration_ns(std::abs(jump->monotonic_ns))));
  }

  const bool ipc_by_user = ipc_namespace && !admin;  // only who owns a user namespace may
  std::vector<Place> places;
  // A user namespace of the child's own owns no pid namespace that is older: ids can't be set there
  // without a new one.
  if (ids_here && !user_namespace && !ipc_by_user)
    places.push_back({true, false, false, false, clocks});
  // It may turn out that the number is taken all the same: by a session.
  if (wants_ids && (namespaces || (ids_here && admin))) {
    places.push_back({true, true, user_namespace, false, clocks});
  }
  if (options.pid_mode != PidMode::keep) {
    const bool owned = (clocks && user_namespace) || ipc_by_user;
    places.push_back({false, false, owned, false, clocks});
  }
  if (places.empty()) {
    findings.refuse(fmt::format("pid {} can't be kept: {}", process.pid, why_not_kept(may_set_tid)),
                    "--pid auto takes another");
    places.push_back({});
  }
  if (wants_ids && !places.front().keep_ids) {
    findings.warn(fmt::format(
        "pid {} can't be kept: {}; pid files, and locks that it holds, name the old one",
        process.pid, why_not_kept(may_set_tid)));
  }
  for (Place& place : places) place.ipc_namespace = ipc_namespace;
  return places;
}

}  // namespace rfork::loader
