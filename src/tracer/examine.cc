#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>

#include "base/io.h"
#include "tracer/capture.h"
#include "tracer/file_locks.h"
#include "tracer/inventory.h"
#include "tracer/inventory_sockets.h"
#include "tracer/open_fd.h"
#include "tracer/posix_timers.h"
#include "tracer/proc_text.h"
#include "tracer/process_state.h"
#include "tracer/seccomp.h"
#include "tracer/shared_by_threads.h"
#include "tracer/stopped_process.h"
#include "tracer/surroundings.h"
#include "tracer/sysv_users.h"
#include "tracer/thread_attributes.h"

namespace rfork::tracer {

namespace {

// The flag of a kernel thread in /proc/PID/stat (include/linux/sched.h).
constexpr unsigned long kKernelThread = 0x00200000;

[[noreturn]] void refuse(std::string what, std::string advice = {}) {
  throw Refusal(Failure::cannot_trace, std::move(what), std::move(advice));
}

bool has_ended(const std::string& status_text) {
  const auto status = parse_status(status_text);
  const auto state = status.find("State");
  return state != status.end() &&
         (state->second.starts_with("Z") || state->second.starts_with("X"));
}

// A process whose leader has ended is a zombie to all appearance, and goes on with its others.
size_t running_threads(pid_t pid) {
  size_t running = 0;
  const std::string path = fmt::format("/proc/{}/task", pid);
  for (const int tid : try_list_numbers(path).value_or(std::vector<int>())) {
    const auto text = try_read_file_at(AT_FDCWD, fmt::format("{}/{}/status", path, tid));
    if (text && !has_ended(*text)) ++running;
  }
  return running;
}

void refuse_what_has_no_memory(pid_t pid) {
  if (pid == ::getpid())
    refuse(fmt::format("process {} is rfork-trace itself", pid), "name another process");
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/status", pid));
  if (!text) refuse(fmt::format("there is no process {}", pid));
  const auto status = parse_status(*text);
  const auto value = [&](const char* key) {
    const auto found = status.find(key);
    return found == status.end() ? std::string() : found->second;
  };
  if (value("Tgid") != std::to_string(pid)) {
    refuse(fmt::format("{} is a thread of process {}", pid, value("Tgid")),
           fmt::format("trace {}", value("Tgid")));
  }
  if (has_ended(*text)) {
    const size_t running = running_threads(pid);
    if (running > 0) {
      refuse(
          fmt::format("the main thread of process {} has ended (pthread_exit) while {} other{} on, "
                      "which can't be carried",
                      pid, running, running == 1 ? " runs" : "s run"));
    }
    refuse(
        fmt::format("process {} is a zombie: it has ended, and its parent {} hasn't waited for it",
                    pid, value("PPid")));
  }
  const auto stat = parse_stat_fields(read_file(fmt::format("/proc/{}/stat", pid)));
  if ((std::stoul(stat.at(9 - 3)) & kKernelThread) != 0) {
    refuse(
        fmt::format("process {} ({}) is a thread of the kernel, no program", pid, value("Name")));
  }
  if (value("TracerPid") != "0") refuse_seize(pid, EPERM);
}

void refuse_what_is_not_64_bit(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/exe", pid);
  const UniqueFd exe = try_open(path, O_RDONLY);
  Elf64_Ehdr header{};
  if (!exe || read_full(exe.get(), std::as_writable_bytes(std::span(&header, 1)), path) < EI_NIDENT)
    return;
  if (header.e_ident[EI_CLASS] == ELFCLASS32) {
    refuse(fmt::format("process {} is a 32-bit program", pid),
           "rfork carries 64-bit programs only");
  }
}

// The memory of a process is the first thing that the kernel guards as it does ptrace, so this
// finds out without touching it whether it may be traced.
void refuse_what_may_not_be_read(pid_t pid) {
  if (try_open(fmt::format("/proc/{}/mem", pid), O_RDONLY)) return;
  refuse_seize(pid, errno);
}

std::vector<int32_t> inner_tids(pid_t pid) {
  std::vector<int32_t> tids;
  const std::string path = fmt::format("/proc/{}/task", pid);
  const auto threads = try_list_numbers(path);
  if (!threads) throw ProcessGone(pid);
  for (const pid_t tid : *threads) {
    const auto text = try_read_file_at(AT_FDCWD, fmt::format("{}/{}/status", path, tid));
    if (!text) continue;
    const std::string ids = parse_status(*text).at("NSpid");
    tids.push_back(std::stoi(ids.substr(ids.find_last_of('\t') + 1)));
  }
  return tids;
}

// As far as it is known of running threads what they need of a destination.
std::vector<image::Thread> sketch_threads(pid_t pid) {
  std::vector<image::Thread> threads;
  const std::string path = fmt::format("/proc/{}/task", pid);
  const auto tids = try_list_numbers(path);
  if (!tids) throw ProcessGone(pid);
  for (const pid_t tid : *tids) {
    const auto text = try_read_file_at(AT_FDCWD, fmt::format("{}/{}/status", path, tid));
    if (!text) continue;
    const auto status = parse_status(*text);
    image::Thread thread;
    try {
      read_attributes(pid, tid, status, thread);
    } catch (const ProcessGone&) {
      continue;  // the thread has ended meanwhile
    }
    threads.push_back(std::move(thread));
  }
  return threads;
}

}  // namespace

namespace {

// Those that are not a label of the system's: xattr(7).
bool has_own_attributes(int fd) {
  const ssize_t size = ::flistxattr(fd, nullptr, 0);
  std::string names(size > 0 ? static_cast<size_t>(size) : 0, '\0');
  const ssize_t listed = ::flistxattr(fd, names.data(), names.size());
  names.resize(listed > 0 ? static_cast<size_t>(listed) : 0);
  return std::ranges::any_of(split(names, '\0'), [](std::string_view name) {
    return name.starts_with("user.") || name.starts_with("system.");
  });
}

// What an open file without a name has, and the new one won't.
void note_lost_attributes(const Inventory& inventory, const image::Credentials& user,
                          std::vector<std::string>& changes) {
  for (const image::Object& object : inventory.objects) {
    const auto is_its = [&](const auto& description) { return description.object == object.id; };
    const auto source = inventory.object_sources.find(object.id);
    struct stat status {};
    if (object.kind != image::Object::Kind::deleted_file ||
        source == inventory.object_sources.end() ||
        ::fstat(source->second.fd.get(), &status) != 0 ||
        std::ranges::none_of(inventory.descriptions, is_its)) {
      continue;
    }
    if (status.st_uid != user.euid || status.st_gid != user.egid) {
      changes.push_back(
          fmt::format("{}, which was deleted, belongs to user {} and group {}: the new one will be "
                      "the process's own",
                      object.name, status.st_uid, status.st_gid));
    }
    if (has_own_attributes(source->second.fd.get())) {
      changes.push_back(fmt::format(
          "{}, which was deleted, has extended attributes: the new one won't", object.name));
    }
  }
}

Examination look_at_living(pid_t pid, const Options& options) {
  refuse_what_has_no_memory(pid);
  refuse_what_may_not_be_read(pid);
  refuse_what_is_not_64_bit(pid);

  const std::string directory = fmt::format("/proc/{}/", pid);
  InventoryInput input;
  input.pid = pid;
  input.smaps = read_smaps(pid);
  input.maps = parse_maps(read_file(directory + "maps"));
  input.drop_fds = options.drop_fds;
  input.drop_locks = options.drop_locks;
  input.move = options.move;
  input.drop_connections = options.drop_connections;
  input.keep_tcp = options.keep_tcp;
  input.relay = options.relay;
  input.forked = options.forked;
  input.leave_children = options.leave_children;
  input.own_segments = options.own_segments;
  input.relay_input = options.relay_input;
  auto inventory = std::make_shared<Inventory>(take_inventory(input));

  const std::vector<int32_t> tids = inner_tids(pid);
  std::vector<image::PosixTimer> timers;
  if (!options.drop_timers) timers = list_timers(pid);
  find_process_obstacles(pid, inventory->obstacles);
  if (is_path_too_long(directory + "cwd")) {
    inventory->obstacles.push_back(
        {"its working directory has a longer path than the kernel tells, and can't be carried",
         ""});
  }
  find_thread_obstacles(pid, inventory->obstacles);
  if (!options.drop_attributes) find_parent_obstacles(pid, inventory->obstacles);
  find_seccomp_obstacles(pid, inventory->obstacles);
  find_timer_obstacles(timers, tids, inventory->obstacles);
  if (!options.drop_ipc) find_sysv_obstacles(pid, inventory->obstacles);
  if (!options.leave_children) find_children(pid, inventory->obstacles);

  Examination result;
  result.obstacles = inventory->obstacles;
  result.pid = pid;
  image::Snapshot sketch;
  sketch.host = image::this_host();
  sketch.objects = inventory->objects;
  sketch.descriptions = inventory->descriptions;
  sketch.processes.push_back(read_process(pid));
  sketch.processes[0].mappings = inventory->mappings;
  sketch.processes[0].posix_timers = timers;
  sketch.drop_attributes = options.drop_attributes;
  sketch.processes[0].threads = sketch_threads(pid);
  result.name = sketch.processes[0].name;
  result.euid = sketch.processes[0].credentials.euid;
  result.user = sketch.processes[0].credentials.user;
  result.needs = image::needs_of(sketch);
  const auto status = parse_status(read_file(directory + "status"));
  if (const auto rss = status.find("VmRSS"); rss != status.end()) {
    result.resident_bytes = std::stoull(rss->second) * 1024;
  }
  for (const image::File& file : inventory->files) {
    if (inventory->open_files.contains(file.id)) {
      result.open_files.push_back(file);
    } else if (S_ISREG(file.mode)) {
      result.mapped_files.push_back(file);
    }
  }
  result.leases = holds_lease(pid);
  result.sockets = named_sockets(*inventory);
  for (const image::Object& object : inventory->objects) {
    if (object.segment) result.segments.push_back(*object.segment);
  }
  result.tids = tids;
  result.changes = other_surroundings(pid, inventory->files);
  note_lost_attributes(*inventory, sketch.processes[0].credentials, result.changes);
  result.changes.insert(result.changes.end(), inventory->notes.begin(), inventory->notes.end());
  if (auto line = used_cpu_limit(sketch.processes[0])) result.changes.push_back(*std::move(line));
  for (const image::Mapping& mapping : inventory->mappings) {
    const uint32_t kNotForked = image::Mapping::dont_fork | image::Mapping::wipe_on_fork;
    if ((mapping.advice & kNotForked) != 0) result.not_forked.push_back(mapping.range);
  }
  // Who has the other ends must not find them open when the ghost has ended.
  inventory->relays.clear();
  result.inventory = std::move(inventory);
  return result;
}

}  // namespace

/// What /proc says of a process that is ending has many forms.
Examination look_at(pid_t pid, const Options& options) {
  try {
    return look_at_living(pid, options);
  } catch (const Error&) {
    if (is_ending(fmt::format("/proc/{}/", pid))) throw ProcessGone(pid);
    throw;
  }
}

Examination examine(pid_t pid, const Options& options) {
  Examination result = look_at(pid, options);
  if (!result.obstacles.empty()) throw Refusal(Failure::cannot_carry, result.obstacles);
  return result;
}

image::Snapshot sketch_of(const Examination& examination) {
  const Inventory& inventory = *examination.inventory;
  image::Snapshot sketch;
  sketch.host = examination.needs.host;
  sketch.files = inventory.files;
  sketch.objects = inventory.objects;
  sketch.descriptions = inventory.descriptions;
  image::Process& process = sketch.processes.emplace_back(read_process(examination.pid));
  process.executable = inventory.executable;
  process.executable_deleted = inventory.executable_deleted;
  process.mappings = inventory.mappings;
  process.descriptors = inventory.descriptors;
  for (const int32_t tid : examination.tids) process.threads.emplace_back().tid = tid;
  return sketch;
}

}  // namespace rfork::tracer
