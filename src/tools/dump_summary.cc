#include "tools/dump_summary.h"

#include <fmt/format.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "image/capability_words.h"
#include "image/json.h"
#include "image/memory_policy.h"
#include "image/socket_words.h"
#include "tools/byte_words.h"
#include "tools/field_words.h"
#include "tools/kernel_words.h"
#include "tools/process_words.h"

namespace rfork::tools {

namespace {

using namespace rfork::image;
using nlohmann::json;

constexpr size_t kManyThreads = 20;

/// `  label     text`, which goes on below.
template <typename... Args>
void line(std::FILE* out, const char* label, fmt::format_string<Args...> format, Args&&... args) {
  constexpr size_t kText = 14;
  print_wrapped(fmt::format("  {:<11} ", label), fmt::format(format, std::forward<Args>(args)...),
                kText, out);
}

std::string counted(size_t count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

/// `/usr/bin/python3+0x1234` for an address, as addr2line takes it.
std::string place_of(const Process& process, uint64_t address) {
  const auto found = std::ranges::upper_bound(process.mappings, address, {},
                                              [](const Mapping& m) { return m.range.end; });
  if (found == process.mappings.end() || !found->range.contains(address)) return "unmapped";
  const uint64_t offset = address - found->range.start + found->offset;
  return fmt::format("{}+{:#x}", found->name.empty() ? "anonymous" : plain(found->name), offset);
}

user_regs_struct registers_of(const Thread& thread) {
  user_regs_struct registers{};
  std::memcpy(&registers, thread.registers.data(),
              std::min(sizeof registers, thread.registers.size()));
  return registers;
}

std::string executable_of(const Snapshot& snapshot, const Process& process) {
  if (process.executable_deleted) {
    const Object* object = find_id(snapshot.objects, process.executable);
    return object == nullptr ? "unknown" : plain(object->name) + " (deleted)";
  }
  const File* file = find_id(snapshot.files, process.executable);
  return file == nullptr ? "unknown" : plain(file->path);
}

/// Bytes carried: of memory, and of files and shared memory.
std::pair<uint64_t, uint64_t> carried(const Metadata& metadata) {
  uint64_t memory = 0, objects = 0;
  for (const DataRun& run : metadata.runs) {
    (run.target == DataRun::Target::memory ? memory : objects) += run.range.size();
  }
  return {memory, objects};
}

void print_head(const Metadata& metadata, std::FILE* out) {
  const Snapshot& snapshot = metadata.snapshot;
  const auto [memory, objects] = carried(metadata);
  line(out, "image", "{}: {} of memory, {} of files and shared memory{}",
       human_bytes(metadata.total_size), human_bytes(memory), human_bytes(objects),
       snapshot.thin ? "; thin: named files are left out" : "");
  line(out, "from", "{} ({}, Linux {}), {} {}", plain(snapshot.host.name),
       plain(snapshot.host.architecture), plain(snapshot.host.kernel),
       snapshot.moved ? "moved" : "copied", utc_words(snapshot.realtime_ns));
  if (snapshot.holder) {
    line(out, "connections", "held on that host by process {}", snapshot.holder->pid);
  }
  const Needs needs = needs_of(snapshot);
  line(out, "needs", "XSAVE components {}; {}; kernel: {}", xstate_words(needs.host.xcr0),
       counted(needs.host.cpu_features.size(), "CPU extension"), fmt::join(needs.abilities, ", "));
}

void print_identity(const Snapshot& snapshot, const Process& process, std::FILE* out) {
  std::string command;
  for (const std::string& argument : process.command_line) {
    command += (command.empty() ? "" : " ") + shell_word(argument);
  }
  fmt::print(out, "process {}: {}\n", process.pid, plain(process.name));
  fmt::print(out, "  command     {}\n", command);  // to be copied
  line(out, "program", "{}", executable_of(snapshot, process));
  const Credentials& who = process.credentials;
  line(out, "user", "{}uid {}, gid {}", who.user.empty() ? "" : plain(who.user) + ", ", who.euid,
       who.egid);
  if (who.securebits != 0) line(out, "securebits", "{}", securebits_words(who.securebits));
  if (who.cap_effective != 0) line(out, "may", "{}", image::capability_words(who.cap_effective));
  line(out, "folder", "{}, umask {:03o}{}", plain(process.cwd), process.umask,
       process.root == "/" ? "" : ", root " + plain(process.root));
  line(out, "parent", "{}, process group {}, session {}", process.ppid, process.pgid, process.sid);
  const int64_t age_ns = snapshot.boottime_ns - process.start_time_ns;
  const std::string age = age_ns > 0 ? ", ran for " + human_duration_ns(age_ns) : "";
  line(out, "state", "{}{}",
       process.stop_signal == 0 ? "running" : "stopped by " + signal_word(process.stop_signal),
       age);
}

/// What of a thread's attributes isn't as in most.
std::string attributes_of(const Thread& thread) {
  std::string text;
  const auto add = [&](const std::string& words) { text += (text.empty() ? "" : ", ") + words; };
  const Scheduling& scheduling = thread.scheduling;
  if (scheduling.policy != 0) add(scheduling_policy_word(static_cast<uint64_t>(scheduling.policy)));
  if (scheduling.priority != 0) add(fmt::format("priority {}", scheduling.priority));
  if ((scheduling.flags & 1) != 0) add("SCHED_RESET_ON_FORK");
  if (thread.nice != 0) add(fmt::format("nice {}", thread.nice));
  if (!thread.cpus.empty()) add(fmt::format("CPU {}", fmt::join(thread.cpus, ",")));
  if (thread.io_priority != 0) add(io_priority_words(static_cast<uint64_t>(thread.io_priority)));
  if (thread.memory_policy.mode != 0) add("memory " + policy_words(thread.memory_policy));
  if (thread.settings.parent_death_signal != 0)
    add("PR_SET_PDEATHSIG " + signal_word(thread.settings.parent_death_signal));
  if (thread.credentials) {
    const Credentials& who = *thread.credentials;
    add(fmt::format("uid {}, gid {}, capabilities {:#x}", who.euid, who.egid, who.cap_effective));
  }
  return text;
}

void print_threads(const Process& process, const SummaryOptions& options, std::FILE* out) {
  const size_t shown =
      options.all ? process.threads.size() : std::min(process.threads.size(), kManyThreads);
  line(out, "threads", "{}", process.threads.size());
  for (size_t i = 0; i < shown; ++i) {
    const Thread& thread = process.threads[i];
    const uint64_t rip = registers_of(thread).rip;
    fmt::print(out, "    {:<8} {:<16} at {:#x} {}\n", thread.tid, plain(thread.name), rip,
               place_of(process, rip));
    const std::string attributes = attributes_of(thread);
    if (!attributes.empty()) fmt::print(out, "             {}\n", attributes);
    if (thread.signal_mask != 0) {
      print_wrapped("             blocked: ", signal_set_words(thread.signal_mask), 22, out);
    }
  }
  if (shown < process.threads.size()) {
    fmt::print(out, "    and {} more; --all shows them\n", process.threads.size() - shown);
  }
}

/// Without what means nothing for its kind.
json value_of(const Description& description) {
  json value = description;
  if (description.kind != Description::Kind::relay) value.erase("relay");
  return value;
}
json value_of(const auto& element) {
  return json(element);
}

/// What the line above doesn't say of it.
json details_of(const Description& description) {
  json value = value_of(description);
  for (const char* const name : {"id", "kind", "path", "flags", "offset", "file", "object",
                                 "terminal_modes", "window_size", "queued", "socket"}) {
    value.erase(name);
  }
  return value;
}

void print_descriptors(const Snapshot& snapshot, const Process& process, std::FILE* out) {
  line(out, "descriptors", "{}", process.descriptors.size());
  for (const Descriptor& descriptor : process.descriptors) {
    const Description* description = find_id(snapshot.descriptions, descriptor.description);
    if (description == nullptr) continue;
    std::string shared;
    for (const Descriptor& other : process.descriptors) {
      if (other.fd != descriptor.fd && other.description == descriptor.description) {
        shared += fmt::format("{}{}", shared.empty() ? ", shared with " : " ", other.fd);
      }
    }
    fmt::print(out, "    {:<4} {:<10} {} {}{}{}{}\n", descriptor.fd, name_of(description->kind),
               plain(description->path), open_flag_words(description->flags),
               description->offset == 0 ? "" : fmt::format(", at {}", description->offset),
               descriptor.close_on_exec ? ", FD_CLOEXEC" : "", shared);
    if (description->socket) {
      const std::string words = plain(image::socket_words(*description->socket));
      print_wrapped(std::string(20, ' '), words, 22, out);
    }
    print_fields(details_of(*description), "descriptions", 20, out);
  }
}

void print_pending(const char* label, const std::vector<PendingSignal>& pending, std::FILE* out) {
  for (const PendingSignal& info : pending) {
    line(out, label, "{}", siginfo_words(info));
    label = "";
  }
}

void print_signals(const Process& process, const SummaryOptions& options, std::FILE* out) {
  uint64_t caught = 0, ignored = 0;
  for (const SignalAction& action : process.actions) {
    const uint64_t bit = uint64_t{1} << (action.signal - 1);
    if (action.handler == 1) ignored |= bit;
    if (action.handler > 1) caught |= bit;
  }
  if (caught != 0) line(out, "caught", "{}", signal_set_words(caught));
  if (ignored != 0) line(out, "ignored", "{}", signal_set_words(ignored));
  print_pending("pending", process.pending, out);
  for (const Thread& thread : process.threads) {
    print_pending(fmt::format("for {}", thread.tid).c_str(), thread.pending, out);
  }
  if (!options.all) return;
  for (const SignalAction& action : process.actions) {
    if (action.handler <= 1) continue;
    fmt::print(out, "    {:<12} {} {}\n", signal_word(action.signal),
               place_of(process, action.handler), action_flag_words(action.flags));
  }
}

void print_timers(const Process& process, std::FILE* out) {
  if (process.posix_timers.empty()) return;
  line(out, "timers", "{}", process.posix_timers.size());
  for (const PosixTimer& timer : process.posix_timers) {
    std::string signals = notify_word(static_cast<uint64_t>(timer.notify));
    if (timer.signal != 0) signals += " " + signal_word(timer.signal);
    if (timer.thread != 0) signals += fmt::format(" to {}", timer.thread);
    const std::string left =
        timer.value_ns == 0 ? "not armed" : "in " + human_duration_ns(timer.value_ns);
    fmt::print(out, "    {:<4} {}{}, {}, {}{}\n", timer.id, clock_word(timer.clock),
               timer.clock_thread == 0 ? "" : fmt::format(" of {}", timer.clock_thread), signals,
               left,
               timer.interval_ns == 0 ? "" : ", every " + human_duration_ns(timer.interval_ns));
  }
}

/// What maps(5) doesn't show.
std::string state_of(const Mapping& mapping) {
  std::string text;
  if (mapping.kind == Mapping::Kind::file || mapping.kind == Mapping::Kind::object)
    text += fmt::format("  {} {}", name_of(mapping.kind), mapping.backing);
  if (mapping.grows_down || mapping.no_reserve || mapping.huge_page_size != 0) {
    text += "  " + map_flag_words(mapping.shared, mapping.grows_down, mapping.no_reserve,
                                  mapping.huge_page_size);
  }
  if (mapping.advice != 0) text += "  " + advice_words(mapping.advice);
  if (mapping.shared && !mapping.may_write) text += "  never writable";
  return text;
}

void print_mappings(const Metadata& metadata, uint32_t index, bool each, std::FILE* out) {
  const Process& process = metadata.snapshot.processes[index];
  uint64_t size = 0;
  for (const Mapping& mapping : process.mappings) size += mapping.range.size();
  line(out, "mappings", "{}, {} of addresses{}", process.mappings.size(), human_bytes(size),
       each ? "" : "; --mappings shows them");
  if (!each) return;
  std::vector<Range> runs;
  for (const DataRun& run : metadata.runs) {
    if (run.target == DataRun::Target::memory && run.owner == index) runs.push_back(run.range);
  }
  std::ranges::sort(runs, {}, &Range::start);
  auto next = runs.begin();
  for (const Mapping& mapping : process.mappings) {
    uint64_t bytes = 0;
    for (; next != runs.end() && next->start < mapping.range.end; ++next) bytes += next->size();
    fmt::print(out, "    {:012x}-{:012x} {} {:>10} carried  {}{}{}\n", mapping.range.start,
               mapping.range.end, protection_word(mapping.protection, mapping.shared),
               human_bytes(bytes), plain(mapping.name),
               mapping.offset == 0 ? "" : fmt::format("+{:#x}", mapping.offset), state_of(mapping));
  }
}

void print_segments(const Snapshot& snapshot, std::FILE* out) {
  const char* label = "segments";
  for (const Object& object : snapshot.objects) {
    if (!object.segment) continue;
    const SysvSegment& segment = *object.segment;
    line(out, label, "SysV {}, {}, mode {:03o}, {}{}{}", segment.id,
         segment.key == 0 ? "IPC_PRIVATE"
                          : fmt::format("key {:#x}", static_cast<uint32_t>(segment.key)),
         segment.mode, human_bytes(segment.size), segment.removed ? ", removed" : "",
         segment.locked ? ", SHM_LOCK" : "");
    label = "";
  }
}

void print_policies(const Process& process, std::FILE* out) {
  const char* label = "policies";
  for (const RangePolicy& own : process.memory_policies) {
    line(out, label, "{:012x}-{:012x} {}", own.range.start, own.range.end,
         policy_words(own.policy));
    label = "";
  }
}

template <typename T>
void print_each(const char* label, const std::vector<T>& list, const auto& title, std::FILE* out) {
  if (!list.empty()) fmt::print(out, "{}\n", label);
  for (const T& element : list) {
    fmt::print(out, "    {}\n", title(element));
    print_fields(value_of(element), label, 6, out);
  }
}

/// Every field that is set, by its name in the model.
void print_everything(const Snapshot& snapshot, std::FILE* out) {
  for (const Process& process : snapshot.processes) {
    fmt::print(out, "process {} in full\n", process.pid);
    print_fields(process_head_to_json(process), "processes", 4, out);
    const auto tid = [](const Thread& thread) { return fmt::format("thread {}", thread.tid); };
    print_each("threads", process.threads, tid, out);
  }
  const auto path = [](const auto& element) { return fmt::format("{}", element.id); };
  print_each("descriptions", snapshot.descriptions, path, out);
  print_each("files", snapshot.files, path, out);
  print_each("objects", snapshot.objects, path, out);
  fmt::print(out, "image\n");
  print_fields(snapshot_head_to_json(snapshot), "snapshot", 4, out);
  fmt::print(out, "host\n");
  print_fields(json(snapshot.host), "host", 4, out);
}

}  // namespace

void print_summary(const Metadata& metadata, const SummaryOptions& options, std::FILE* out) {
  const Snapshot& snapshot = metadata.snapshot;
  for (uint32_t i = 0; i < snapshot.processes.size(); ++i) {
    const Process& process = snapshot.processes[i];
    print_identity(snapshot, process, out);
    if (i == 0) print_head(metadata, out);
    print_threads(process, options, out);
    print_descriptors(snapshot, process, out);
    print_signals(process, options, out);
    print_timers(process, out);
    print_mappings(metadata, i, options.mappings || options.all, out);
    print_policies(process, out);
    if (i == 0) print_segments(snapshot, out);
  }
  if (options.all) print_everything(snapshot, out);
}

}  // namespace rfork::tools
