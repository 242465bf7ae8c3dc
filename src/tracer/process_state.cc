#include "tracer/process_state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/membarrier.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "base/io.h"
#include "image/host.h"
#include "tracer/inventory.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

std::vector<uint32_t> numbers(const std::string& text) {
  std::vector<uint32_t> result;
  std::string spaced = text;
  for (char& c : spaced) {
    if (c == '\t') c = ' ';
  }
  for (const std::string_view word : split(spaced, ' ')) {
    result.push_back(static_cast<uint32_t>(std::stoul(std::string(word))));
  }
  return result;
}

std::string user_name(uint32_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  char buffer[4096];
  if (::getpwuid_r(uid, &entry, buffer, sizeof buffer, &found) != 0 || found == nullptr) return {};
  return entry.pw_name;
}

}  // namespace

image::Credentials read_credentials(const Status& status) {
  image::Credentials result;
  const auto uids = numbers(status.at("Uid"));
  const auto gids = numbers(status.at("Gid"));
  result.uid = uids.at(0), result.euid = uids.at(1), result.suid = uids.at(2),
  result.fsuid = uids.at(3);
  result.gid = gids.at(0), result.egid = gids.at(1), result.sgid = gids.at(2),
  result.fsgid = gids.at(3);
  result.groups = numbers(status.at("Groups"));
  const auto capabilities = [&](const char* key) {
    return std::stoull(status.at(key), nullptr, 16);
  };
  result.cap_inheritable = capabilities("CapInh");
  result.cap_permitted = capabilities("CapPrm");
  result.cap_effective = capabilities("CapEff");
  result.cap_bounding = capabilities("CapBnd");
  result.cap_ambient = capabilities("CapAmb");
  return result;
}

namespace {

// Field numbers of proc(5).
image::MemoryLayout read_layout(const std::vector<std::string>& stat) {
  const auto field = [&](size_t number) { return std::stoull(stat.at(number - 3)); };
  image::MemoryLayout layout;
  layout.start_code = field(26), layout.end_code = field(27), layout.start_stack = field(28);
  layout.start_data = field(45), layout.end_data = field(46), layout.start_brk = field(47);
  layout.arg_start = field(48), layout.arg_end = field(49);
  layout.env_start = field(50), layout.env_end = field(51);
  layout.brk = layout.start_brk;
  return layout;
}

std::vector<std::string> read_command_line(const std::string& directory) {
  std::vector<std::string> words;
  const std::string text = read_file(directory + "cmdline");
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\0', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

int32_t last_number(const Status& status, const char* key) {
  return static_cast<int32_t>(numbers(status.at(key)).back());
}

// Since Linux 6.3, 6.4 and 6.3; later than the headers of Debian 12.
constexpr uint64_t kGetMdwe = 66;
constexpr uint64_t kGetMemoryMerge = 68;
constexpr uint64_t kMembarrierGetRegistrations = 1u << 9;

// struct sigaction as the kernel has it.
struct KernelSigaction {
  uint64_t handler, flags, restorer, mask;
};

}  // namespace

void find_process_obstacles(pid_t pid, std::vector<Reason>& obstacles) {
  const auto status = parse_status(read_file(fmt::format("/proc/{}/status", pid)));
  const auto value = [&](const char* key) {
    const auto found = status.find(key);
    return found == status.end() ? std::string() : found->second;
  };
  if (value("x86_Thread_features").find("shstk") != std::string::npos) {
    obstacles.push_back({fmt::format("process {} has a shadow stack, which can't be carried", pid),
                         "start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK"});
  }
}

std::optional<std::string> used_cpu_limit(const image::Process& process) {
  const image::Limit& limit = process.limits[RLIMIT_CPU];
  if (limit.soft == RLIM_INFINITY && limit.hard == RLIM_INFINITY) return std::nullopt;
  return fmt::format("RLIMIT_CPU of {} s counts from zero, as the child's CPU time does",
                     std::min(limit.soft, limit.hard));
}

namespace {

struct Kin {
  pid_t pid = 0, parent = 0;
  std::string name;
  bool zombie = false;
  int end_signal = 0;
};

std::optional<Kin> look_at(pid_t pid) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/stat", pid));
  if (!text) return std::nullopt;
  const auto stat = parse_stat_fields(*text);
  const size_t open = text->find('('), close = text->rfind(')');
  return Kin{pid, std::stoi(stat.at(4 - 3)), text->substr(open + 1, close - open - 1),
             stat.at(3 - 3) == "Z", std::stoi(stat.at(38 - 3))};
}

std::vector<pid_t> list_children(pid_t pid) {
  std::vector<pid_t> children;
  for (const pid_t tid :
       try_list_numbers(fmt::format("/proc/{}/task", pid)).value_or(std::vector<int>())) {
    const std::string list =
        try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/task/{}/children", pid, tid)).value_or("");
    for (const std::string_view word : split(list, ' ')) {
      children.push_back(std::stoi(std::string(word)));
    }
  }
  return children;
}

}  // namespace

void find_children(pid_t pid, std::vector<Reason>& obstacles) {
  // Without CONFIG_PROC_CHILDREN every process must be asked for its parent.
  const bool listed = ::access(fmt::format("/proc/{0}/task/{0}/children", pid).c_str(), R_OK) == 0;
  const auto candidates =
      listed ? list_children(pid) : try_list_numbers("/proc").value_or(std::vector<int>());
  constexpr size_t kNamed = 3;
  size_t count = 0;
  std::string names;
  for (const pid_t candidate : candidates) {
    const auto child = look_at(candidate);
    if (!child || child->parent != pid) continue;
    // Nobody can wait for it by chance: so looks a forked copy that a killed tracer left behind.
    if (child->zombie && child->end_signal == 0) continue;
    if (++count <= kNamed) names += fmt::format(" {} ({})", child->pid, child->name);
  }
  if (count == 0) return;
  obstacles.push_back(
      {fmt::format("process {} has {}:{}{}", pid,
                   count == 1 ? "a child, which doesn't come along"
                              : fmt::format("{} children, which don't come along", count),
                   names, count > kNamed ? " …" : ""),
       "--leave-children goes on without, and it finds none to wait for"});
}

namespace {

void read_working_directory(const std::string& directory, image::Process& process) {
  process.cwd = try_read_link(directory + "cwd").value_or("/");
  struct stat status {};
  constexpr std::string_view kDeleted = " (deleted)";
  process.cwd_removed = ::stat((directory + "cwd").c_str(), &status) == 0 && status.st_nlink == 0 &&
                        process.cwd.ends_with(kDeleted);
  if (process.cwd_removed) process.cwd.resize(process.cwd.size() - kDeleted.size());
}

}  // namespace

image::Process read_process(pid_t pid) {
  const std::string directory = fmt::format("/proc/{}/", pid);
  const Status status = parse_status(read_file(directory + "status"));
  const auto stat = parse_stat_fields(read_file(directory + "stat"));
  image::Process process;
  process.pid = last_number(status, "NSpid");
  process.pgid = last_number(status, "NSpgid");
  process.sid = last_number(status, "NSsid");
  process.ppid = std::stoi(status.at("PPid"));
  process.name = read_file(directory + "comm");
  if (!process.name.empty() && process.name.back() == '\n') process.name.pop_back();
  process.command_line = read_command_line(directory);
  read_working_directory(directory, process);
  process.root = try_read_link(directory + "root").value_or("/");
  process.umask = static_cast<uint32_t>(std::stoul(status.at("Umask"), nullptr, 8));
  process.personality = std::stoull(read_file(directory + "personality"), nullptr, 16);
  process.no_new_privs = status.at("NoNewPrivs") == "1";
  process.oom_score_adj = std::stoi(read_file(directory + "oom_score_adj"));
  const int64_t tick_ns = 1'000'000'000 / ::sysconf(_SC_CLK_TCK);
  process.start_time_ns = std::stoll(stat.at(22 - 3)) * tick_ns;
  process.credentials = read_credentials(status);
  process.credentials.user = user_name(process.credentials.euid);
  if (const auto filter = try_read_file_at(AT_FDCWD, directory + "coredump_filter")) {
    process.settings.dump_filter = static_cast<uint32_t>(std::stoul(*filter, nullptr, 16));
  }
  process.limits = parse_limits(read_file(directory + "limits"));
  process.layout = read_layout(stat);
  const std::string auxv = read_file(directory + "auxv");
  process.auxv.assign(as_bytes(auxv).begin(), as_bytes(auxv).end());
  return process;
}

bool is_ending(const std::string& directory) {
  constexpr unsigned long kExiting = 0x4;  // PF_EXITING of linux/sched.h
  const auto stat = try_read_file_at(AT_FDCWD, directory + "stat");
  return !stat || (std::stoul(parse_stat_fields(*stat).at(9 - 3)) & kExiting) != 0;
}

void ask_timers(RemoteSyscalls& calls, const ProcessMemory& memory, image::Process& process) {
  calls.prepare();
  for (size_t which = 0; which < process.timers.size(); ++which) {
    if (const long result = calls.call(SYS_getitimer, {which, calls.scratch()}); result != 0) {
      throw Error("getitimer", static_cast<int>(-result), fmt::format("in {}", memory.pid()));
    }
    const auto value = memory.read_value<itimerval>(calls.scratch());
    process.timers[which] = {value.it_value.tv_sec * 1'000'000 + value.it_value.tv_usec,
                             value.it_interval.tv_sec * 1'000'000 + value.it_interval.tv_usec};
  }
}

void ask_future_locks(RemoteSyscalls& calls, pid_t pid, image::Process& process) {
  constexpr uint64_t kPage = 4096;
  const long page = calls.call(
      SYS_mmap, {0, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, UINT64_MAX, 0});
  if (page == -EAGAIN) process.lock_future = MCL_FUTURE;  // more than RLIMIT_MEMLOCK allows
  if (page < 0) return;
  const auto address = static_cast<uint64_t>(page);
  for (const SmapsEntry& entry : read_smaps(pid)) {
    if (!entry.range.contains(address) || !entry.has("lo")) continue;
    process.lock_future = MCL_FUTURE | (entry.has("lf") ? MCL_ONFAULT : 0u);
  }
  calls.call(SYS_munmap, {address, kPage});
}

void ask_own_settings(RemoteSyscalls& calls, const ProcessMemory& memory,
                      image::ProcessSettings& settings) {
  calls.prepare();
  if (calls.call(SYS_prctl, {PR_GET_CHILD_SUBREAPER, calls.scratch()}) == 0) {
    settings.child_subreaper = memory.read_value<int32_t>(calls.scratch()) != 0;
  }
  // Kernels before 6.3 have no such thing.
  const long denies = calls.call(SYS_prctl, {kGetMdwe});
  if (denies > 0) settings.memory_deny_write_execute = static_cast<uint32_t>(denies);
}

namespace {

/// Which protection keys pkey_alloc(2) doesn't give any more. Those it gives are given back.
uint32_t ask_protection_keys(RemoteSyscalls& calls) {
  constexpr uint32_t kAll = 0xfffe;  // 1 to 15
  uint32_t free = 0;
  for (long key; (key = calls.call(SYS_pkey_alloc, {0, PKEY_DISABLE_ACCESS})) > 0;) {
    free |= 1u << key;
  }
  for (uint64_t key = 1; key < 16; ++key) {
    if ((free >> key & 1) != 0) calls.call(SYS_pkey_free, {key});
  }
  return kAll & ~free;
}

// membarrier(2): what isn't registered gives EPERM. Since Linux 6.3 there is a call that tells.
uint32_t ask_membarrier(RemoteSyscalls& calls) {
  const long registered = calls.call(SYS_membarrier, {kMembarrierGetRegistrations});
  if (registered >= 0) return static_cast<uint32_t>(registered);
  uint32_t found = 0;
  for (const auto& [command, registration] :
       {std::pair{MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED},
        {MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE,
         MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE},
        {MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ}}) {
    if (calls.call(SYS_membarrier, {static_cast<uint64_t>(command)}) == 0) found |= registration;
  }
  return found;
}

// What a fork inherits.
void ask_shared_settings(RemoteSyscalls& calls, image::ProcessSettings& settings) {
  const long no_huge_pages = calls.call(SYS_prctl, {PR_GET_THP_DISABLE});
  if (no_huge_pages > 0) settings.no_huge_pages = static_cast<uint32_t>(no_huge_pages);
  settings.merge_memory = calls.call(SYS_prctl, {kGetMemoryMerge}) == 1;
  settings.membarrier = ask_membarrier(calls);
}

}  // namespace

void ask_process(RemoteSyscalls& calls, const ProcessMemory& memory, const image::Host& host,
                 image::Process& process) {
  calls.prepare();
  const std::string subject = fmt::format("in {}", memory.pid());
  process.actions.clear();
  for (int signal = 1; signal <= 64; ++signal) {
    image::SignalAction action;
    action.signal = signal;
    if (signal != SIGKILL && signal != SIGSTOP) {
      const long result = calls.call(
          SYS_rt_sigaction, {static_cast<uint64_t>(signal), 0, calls.scratch(), sizeof(uint64_t)});
      if (result != 0) throw Error("rt_sigaction", static_cast<int>(-result), subject);
      const auto kernel = memory.read_value<KernelSigaction>(calls.scratch());
      action.handler = kernel.handler, action.flags = kernel.flags;
      action.restorer = kernel.restorer, action.mask = kernel.mask;
    }
    process.actions.push_back(action);
  }
  process.layout.brk = static_cast<uint64_t>(calls.call(SYS_brk, {0}));
  const long dumpable = calls.call(SYS_prctl, {PR_GET_DUMPABLE});
  process.dumpable = dumpable == 1;
  if (image::has_ability(host, image::kProtectionKeys)) {
    process.protection_keys = ask_protection_keys(calls);
  }
  ask_shared_settings(calls, process.settings);
}

}  // namespace rfork::tracer
