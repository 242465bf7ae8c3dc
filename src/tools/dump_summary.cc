#include "tools/dump_summary.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "base/text.h"
#include "image/json.h"
#include "image/socket_words.h"
#include "tools/kernel_words.h"

namespace rfork::tools {

namespace {

using namespace rfork::image;

constexpr size_t kManyThreads = 20;

/// One line, `  label     text`.
template <typename... Args>
void line(std::FILE* out, const char* label, fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(out, "  {:<11} {}\n", label, fmt::format(format, std::forward<Args>(args)...));
}

std::string counted(size_t count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

std::string utc(int64_t realtime_ns) {
  const time_t seconds = realtime_ns / 1'000'000'000;
  std::tm broken{};
  if (::gmtime_r(&seconds, &broken) == nullptr) return "at an unknown time";
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", broken);
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
       snapshot.moved ? "moved" : "copied", utc(snapshot.realtime_ns));
  const Needs needs = needs_of(snapshot);
  line(out, "needs", "XSAVE components {:#x}, {}, kernel: {}", needs.host.xcr0,
       counted(needs.host.cpu_features.size(), "CPU extension"), fmt::join(needs.abilities, ", "));
}

void print_identity(const Snapshot& snapshot, const Process& process, std::FILE* out) {
  std::string command;
  for (const std::string& argument : process.command_line) {
    command += (command.empty() ? "" : " ") + shell_word(argument);
  }
  fmt::print(out, "process {}: {}\n", process.pid, plain(process.name));
  line(out, "command", "{}", command);
  line(out, "program", "{}", executable_of(snapshot, process));
  const Credentials& who = process.credentials;
  line(out, "user", "{}uid {}, gid {}", who.user.empty() ? "" : plain(who.user) + ", ", who.euid,
       who.egid);
  line(out, "folder", "{}, umask {:03o}{}", plain(process.cwd), process.umask,
       process.root == "/" ? "" : ", root " + plain(process.root));
  line(out, "parent", "{}, process group {}, session {}", process.ppid, process.pgid, process.sid);
  const int64_t age_ns = snapshot.boottime_ns - process.start_time_ns;
  const std::string age = age_ns > 0 ? ", ran for " + human_duration_ns(age_ns) : "";
  line(out, "state", "{}{}",
       process.stop_signal == 0 ? "running" : "stopped by " + signal_word(process.stop_signal),
       age);
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
    if (thread.signal_mask != 0) {
      fmt::print(out, "             blocked: {}\n", signal_set_words(thread.signal_mask));
    }
  }
  if (shown < process.threads.size()) {
    fmt::print(out, "    and {} more; --all shows them\n", process.threads.size() - shown);
  }
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
      fmt::print(out, "                    {}\n", plain(image::socket_words(*description->socket)));
    }
  }
}

void print_pending(const char* label, const std::vector<PendingSignal>& pending, std::FILE* out) {
  std::string text;
  for (const PendingSignal& info : pending) {
    int32_t signal;
    std::memcpy(&signal, info.data(), sizeof signal);
    text += (text.empty() ? "" : " ") + signal_word(signal);
  }
  if (!text.empty()) line(out, label, "{}", text);
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
    const std::string advice = advice_words(mapping.advice);
    fmt::print(out, "    {:012x}-{:012x} {} {:>10} carried  {}{}{}\n", mapping.range.start,
               mapping.range.end, protection_word(mapping.protection, mapping.shared),
               human_bytes(bytes), plain(mapping.name),
               mapping.offset == 0 ? "" : fmt::format("+{:#x}", mapping.offset),
               advice.empty() ? "" : "  " + advice);
  }
}

void print_limits(const Process& process, std::FILE* out) {
  const auto number = [](uint64_t limit) {
    return limit == ~uint64_t{0} ? std::string("unlimited") : std::to_string(limit);
  };
  line(out, "limits", "{}", process.limits.size());
  for (size_t i = 0; i < process.limits.size(); ++i) {
    fmt::print(out, "    {:<18} {} of {}\n", limit_word(i), number(process.limits[i].soft),
               number(process.limits[i].hard));
  }
}

void print_contents(const Snapshot& snapshot, std::FILE* out) {
  fmt::print(out, "files\n");
  for (const File& file : snapshot.files) {
    fmt::print(out, "    {:<4} {} {}{}\n", file.id, plain(file.path), human_bytes(file.size),
               file.build_id.empty() ? "" : ", build-id " + plain(file.build_id));
  }
  fmt::print(out, "objects\n");
  for (const Object& object : snapshot.objects) {
    fmt::print(out, "    {:<4} {:<16} {} {}\n", object.id, name_of(object.kind), plain(object.name),
               human_bytes(object.size));
  }
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
    print_mappings(metadata, i, options.mappings || options.all, out);
    if (options.all) print_limits(process, out);
  }
  if (options.all) print_contents(snapshot, out);
}

}  // namespace rfork::tools
