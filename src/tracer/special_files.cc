#include "tracer/special_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>

#include "base/io.h"
#include "tracer/path_search.h"
#include "tracer/proc_text.h"
#include "tracer/sockets.h"

namespace rfork::tracer {

using image::Description;

namespace {

// Of file systems that <linux/magic.h> leaves out.
constexpr long kMqueue = 0x19800202;    // ipc/mqueue.c
constexpr long kPidfs = 0x50494446;     // PID_FS_MAGIC
constexpr long kConfigfs = 0x62656570;  // fs/configfs/mount.c

// Their files can be opened by name, here as there.
constexpr std::array<long, 10> kReopened{
    PROC_SUPER_MAGIC, SYSFS_MAGIC,      CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,
    TRACEFS_MAGIC,    SECURITYFS_MAGIC, SELINUX_MAGIC,      SMACK_MAGIC,         kConfigfs};
constexpr std::array<long, 5> kObjects{NSFS_MAGIC, BPF_FS_MAGIC, kMqueue, SECRETMEM_MAGIC, kPidfs};

long file_system_of(pid_t pid, int fd) {
  struct statfs file_system {};
  if (::statfs(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), &file_system) != 0) return 0;
  return file_system.f_type;
}

/// The number that a process or thread, `of` in /proc, has in its own pid namespace.
std::string inner_number(const std::string& of) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/status", of));
  const std::string ids = text ? value_of(*text, "NSpid").value_or("") : "";
  return ids.substr(ids.find_last_of('\t') + 1);
}

/// `/task/TID/x` with the number that the process itself has for its thread.
std::string own_task_path(pid_t pid, const std::string& rest) {
  constexpr std::string_view kTask = "/task/";
  const size_t end = std::min(rest.find('/', kTask.size()), rest.size());
  const std::string number = rest.substr(kTask.size(), end - kTask.size());
  const std::string inner = inner_number(fmt::format("{}/task/{}", pid, number));
  return inner.empty() ? rest : std::string(kTask) + inner + rest.substr(end);
}

/// /proc/PID/x as /proc/self/x for the process's own PID, and so with its leader's task/PID. Empty:
/// it is another process's.
std::string own_path(pid_t pid, const std::string& path) {
  constexpr std::string_view kProc = "/proc/";
  if (!path.starts_with(kProc)) return path;
  const size_t end = std::min(path.find('/', kProc.size()), path.size());
  const std::string number = path.substr(kProc.size(), end - kProc.size());
  if (number.empty() || number.find_first_not_of("0123456789") != std::string::npos) return path;
  if (number != std::to_string(pid) && number != inner_number(std::to_string(pid))) return {};
  const std::string rest = path.substr(end), task = "/task/" + number;
  if (rest == task || rest.starts_with(task + "/")) {
    return "/proc/thread-self" + rest.substr(task.size());
  }
  if (rest.starts_with("/task/")) return "/proc/self" + own_task_path(pid, rest);
  return "/proc/self" + rest;
}

/// `net:[4026531840]` is `/proc/self/ns/net` if it is the process's own; else empty.
std::string own_namespace(pid_t pid, const std::string& link) {
  const std::string name = link.substr(0, link.find(':'));
  for (const char* suffix : {"", "_for_children"}) {
    const std::string path = fmt::format("ns/{}{}", name, suffix);
    if (try_read_link(fmt::format("/proc/{}/{}", pid, path)) == link) return "/proc/self/" + path;
  }
  return {};
}

struct Words {
  const char* object;
  const char* words;
};
constexpr Words kObjectWords[] = {
    {"[fanotify]", "a fanotify group"},
    {"[userfaultfd]", "a userfaultfd"},
    {"[io_uring]", "an io_uring"},
    {"[perf_event]", "a perf event"},
    {"bpf-map", "a BPF map"},
    {"bpf-prog", "a BPF program"},
    {"bpf-link", "a BPF link"},
    {"bpf_link", "a BPF link"},
    {"btf", "BPF type information"},
    {"kvm-vm", "a virtual machine of KVM"},
    {"kvm-vcpu", "a virtual processor of KVM"},
    {"kvm-device", "a device of KVM"},
    {"[landlock-ruleset]", "a Landlock ruleset"},
    {"seccomp notify", "a listener of seccomp"},
    {"[fscontext]", "a file system that is being mounted (fsopen)"},
    {"[mount", "a mount"},
    {"[vfio", "a device of VFIO"},
    {"[pidfd]", "a pidfd"},
    {"sync_file", "a fence of a graphics driver"},
};

std::string pidfd_in_words(const std::string& info) {
  const std::string pid = value_of(info, "Pid").value_or("");
  if (pid.empty()) return "a pidfd";
  if (pid == "-1") return "a pidfd of a process that has ended";
  return "a pidfd of process " + pid;
}

// Where a symbolic link leads that is open with O_PATH.
Bytes link_target(pid_t pid, int fd) {
  Bytes target(PATH_MAX);
  const UniqueFd own = duplicate_descriptor(pid, fd);
  const ssize_t size =
      ::readlinkat(own.get(), "", reinterpret_cast<char*>(target.data()), target.size());
  target.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return target;
}

bool is_terminal_number(unsigned number) {
  return number == 4 || number == 5 || (number >= 136 && number <= 143) || number == 204;
}

}  // namespace

bool on_kernel_file_system(pid_t pid, int fd) {
  const long type = file_system_of(pid, fd);
  return std::ranges::find(kReopened, type) != kReopened.end() ||
         std::ranges::find(kObjects, type) != kObjects.end();
}

bool describe_kernel_file(pid_t pid, const SpecialFd& open, Description& description) {
  const long type = file_system_of(pid, open.fd);
  const bool named = std::ranges::find(kReopened, type) != kReopened.end() &&
                     (S_ISREG(open.status.st_mode) || S_ISDIR(open.status.st_mode)) &&
                     open.path.starts_with('/') && !open.path.ends_with(" (deleted)");
  if (!named && type != NSFS_MAGIC) return false;
  std::string path = named ? own_path(pid, open.path) : own_namespace(pid, open.path);
  if (path.empty()) return false;
  description.kind = Description::Kind::kernel_file;
  description.path = std::move(path);
  return true;
}

bool describe_own_pidfd(pid_t pid, const SpecialFd& open, Description& description) {
  if (open.path != "anon_inode:[pidfd]" && !open.path.starts_with("pidfd:")) return false;
  if (value_of(open.info, "Pid") != std::to_string(pid)) return false;
  description.kind = Description::Kind::pidfd;
  return true;
}

bool describe_bare_path(Inventory& inventory, const InventoryInput& input, const SpecialFd& open,
                        Description& description) {
  const mode_t type = open.status.st_mode;
  if ((open.flags & O_PATH) == 0 || S_ISREG(type) || S_ISDIR(type)) return false;
  description.mode = type;
  if (S_ISLNK(type)) description.queued = {link_target(input.pid, open.fd)};
  const UniqueFd fd = open_in_process(input.pid, open.path, O_PATH | O_NOFOLLOW);
  struct stat status {};
  if (fd && ::fstat(fd.get(), &status) == 0 && status.st_ino == open.status.st_ino &&
      status.st_dev == open.status.st_dev) {
    description.file = add_file(inventory, input.earlier, fd.get(), open.path);
  } else if (open.status.st_nlink == 0 && (S_ISLNK(type) || S_ISFIFO(type))) {
    description.removed = true;
  } else {
    return false;
  }
  description.kind = Description::Kind::path;
  return true;
}

std::string other_name(const InventoryInput& input, const SpecialFd& open) {
  const WantedInode wanted{open.status.st_dev, open.status.st_ino, 0, {}};
  std::vector<std::string> known;
  if (input.earlier != nullptr) {
    for (const image::File& file : input.earlier->files) known.push_back(file.path);
  }
  const std::chrono::milliseconds patience(input.earlier != nullptr ? 50 : 1000);
  const auto found = find_names(input.pid, std::span(&wanted, 1), known, patience);
  return found[0] ? found[0]->path : "";
}

std::string kernel_object_in_words(const std::string& link) {
  constexpr std::string_view kPrefix = "anon_inode:";
  const std::string object = link.starts_with(kPrefix) ? link.substr(kPrefix.size()) : link;
  for (const Words& known : kObjectWords) {
    if (object.starts_with(known.object)) return fmt::format("{} ({})", known.words, link);
  }
  return fmt::format("a kernel object ({})", object);
}

std::string in_words(pid_t pid, const SpecialFd& open) {
  const mode_t type = open.status.st_mode;
  const std::string& path = open.path;
  if (path == "anon_inode:[pidfd]" || path.starts_with("pidfd:")) return pidfd_in_words(open.info);
  if (path.starts_with("anon_inode:")) return kernel_object_in_words(path);
  switch (file_system_of(pid, open.fd)) {
    case SECRETMEM_MAGIC:
      return "secret memory (memfd_secret)";
    case NSFS_MAGIC:
      return fmt::format("the namespace {}, another one than the process's own", path);
    case kMqueue:
      return fmt::format("the POSIX message queue {}", path);
    case BPF_FS_MAGIC:
      return fmt::format("an object of BPF ({})", path);
    default:
      break;
  }
  if (S_ISFIFO(type))
    return fmt::format("a {} ({})", path.starts_with('/') ? "FIFO" : "pipe", path);
  if (S_ISSOCK(type)) {
    const UniqueFd own = duplicate_descriptor(pid, open.fd);
    const std::string words = own ? socket_in_words(own.get()) : "";
    return fmt::format("a socket ({})", words.empty() ? path : words);
  }
  if (S_ISCHR(type) && is_terminal_number(major(open.status.st_rdev)))
    return fmt::format("a terminal ({})", path);
  if (S_ISCHR(type)) return fmt::format("the device {}", path);
  if (S_ISBLK(type)) return fmt::format("the block device {}", path);
  if (path.starts_with("/proc/")) return fmt::format("{}, of another process", path);
  return path;
}

}  // namespace rfork::tracer
