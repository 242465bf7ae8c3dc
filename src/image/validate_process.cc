#include <sys/mman.h>
#include <sys/user.h>

#include <cstring>

#include "image/format.h"
#include "image/validate.h"

namespace rfork::image {

namespace {

constexpr uint32_t kAllAdvice = (Mapping::droppable << 1) - 1;
constexpr uint32_t kProtectionKeys = 0xfffe;   // all but everybody's
constexpr uint64_t kXstateHeader = 512;        // where XSTATE_BV stands
constexpr uint64_t kXstateMinimum = 512 + 64;  // legacy area and header
constexpr uint64_t kXstateMaximum = 65536;

bool in_user_space(const Host& host, uint64_t start, uint64_t size) {
  const auto range = Range::sized(start, size);
  return range && range->end <= host.address_limit;
}

void validate_pending(const std::vector<PendingSignal>& pending, NoteType note) {
  for (const PendingSignal& signal : pending) {
    int32_t number;
    std::memcpy(&number, signal.data(), sizeof number);
    require(number >= 1 && number <= 64, note, "a pending signal has the number {}", number);
  }
}

/// XRSTOR faults on an area that says what it can't be (Intel SDM volume 1, 13.8.1).
void validate_xstate(const Host& host, const Thread& thread) {
  constexpr NoteType kNote = NoteType::threads;
  const Bytes& area = thread.xstate;
  require(area.size() >= kXstateMinimum && area.size() <= kXstateMaximum, kNote,
          "thread {} has an XSAVE area of {} bytes", thread.tid, area.size());
  uint64_t in_use, compacted;
  std::memcpy(&in_use, area.data() + kXstateHeader, sizeof in_use);
  std::memcpy(&compacted, area.data() + kXstateHeader + 8, sizeof compacted);
  require(compacted == 0, kNote, "thread {} has a compacted XSAVE area", thread.tid);
  require((in_use & ~(host.xcr0 | 3)) == 0, kNote, "thread {} has XSAVE components {:#x}",
          thread.tid, in_use);
  uint64_t known = 3;
  for (const XstateComponent& component : host.xstate) {
    known |= uint64_t{1} << component.index;
    require((in_use >> component.index & 1) == 0 ||
                uint64_t{component.offset} + component.size <= area.size(),
            kNote, "thread {} has an XSAVE area without component {}", thread.tid, component.index);
  }
  require((in_use & ~known) == 0, kNote, "thread {} has XSAVE components of unknown place",
          thread.tid);
}

void validate_thread(const Host& host, const Thread& thread) {
  constexpr NoteType kNote = NoteType::threads;
  require(thread.tid > 0, kNote, "a thread has the tid {}", thread.tid);
  require(thread.name.size() < 16 && !has_nul(thread.name), kNote, "thread {} has a wrong name",
          thread.tid);
  require(thread.registers.size() == sizeof(user_regs_struct), kNote,
          "thread {} has {} bytes of registers", thread.tid, thread.registers.size());
  require(thread.floating_point.size() == sizeof(user_fpregs_struct), kNote,
          "thread {} has {} bytes of floating-point registers", thread.tid,
          thread.floating_point.size());
  validate_xstate(host, thread);
  constexpr int32_t kDisabled = 2;
  require((thread.alt_stack.flags & kDisabled) != 0 ||
              in_user_space(host, thread.alt_stack.address, thread.alt_stack.size),
          kNote, "thread {} has an alternate stack outside user space", thread.tid);
  require(in_user_space(host, thread.rseq.address, thread.rseq.size), kNote,
          "thread {} has an rseq area outside user space", thread.tid);
  require(thread.nice >= -20 && thread.nice <= 19, kNote, "thread {} has nice {}", thread.tid,
          thread.nice);
  validate_pending(thread.pending, kNote);
}

void validate_mapping(const Host& host, const KnownIds& known, const Mapping& mapping) {
  constexpr NoteType kNote = NoteType::mappings;
  using Kind = Mapping::Kind;
  const uint64_t at = mapping.range.start;
  require(mapping.range.start < mapping.range.end && mapping.range.start % kPageSize == 0 &&
              mapping.range.end % kPageSize == 0,
          kNote, "the mapping at {:#x} is empty or not page-aligned", at);
  require(mapping.range.end <= host.address_limit, kNote,
          "the mapping at {:#x} is not in user space", at);
  require((mapping.protection & ~uint32_t{PROT_READ | PROT_WRITE | PROT_EXEC}) == 0, kNote,
          "the mapping at {:#x} has the protection {:#x}", at, mapping.protection);
  require((mapping.advice & ~kAllAdvice) == 0, kNote, "the mapping at {:#x} has the advice {:#x}",
          at, mapping.advice);
  require(mapping.name.size() < 65536 && !has_nul(mapping.name), kNote,
          "the mapping at {:#x} has a wrong name", at);
  const bool backed = mapping.kind == Kind::file || mapping.kind == Kind::object;
  require(mapping.kind != Kind::file || KnownIds::has(known.files, mapping.backing), kNote,
          "the mapping at {:#x} names an unknown file", at);
  require(mapping.kind != Kind::object || KnownIds::has(known.objects, mapping.backing), kNote,
          "the mapping at {:#x} names an unknown object", at);
  require(backed || !mapping.shared, kNote, "the mapping at {:#x} is shared without an object", at);
  const auto offsets = Range::sized(mapping.offset, mapping.range.size());
  require(!backed || (mapping.offset % kPageSize == 0 && offsets && offsets->end <= INT64_MAX),
          kNote, "the mapping at {:#x} has the offset {:#x}", at, mapping.offset);
  uint64_t end = mapping.range.start;
  for (const Range& guard : mapping.guards) {
    require(guard.start >= end && guard.start < guard.end && guard.end <= mapping.range.end &&
                guard.start % kPageSize == 0 && guard.end % kPageSize == 0,
            kNote, "the mapping at {:#x} has a guard region at {:#x}", at, guard.start);
    end = guard.end;
  }
  const uint64_t huge = mapping.huge_page_size;
  require(huge == 0 || (is_power_of_two(huge) && huge > kPageSize && at % huge == 0 &&
                        mapping.range.size() % huge == 0),
          kNote, "the mapping at {:#x} doesn't fit huge pages of {} bytes", at, huge);
}

void validate_memory(const Host& host, const KnownIds& known, const Process& process) {
  uint64_t end = 0;
  for (const Mapping& mapping : process.mappings) {
    validate_mapping(host, known, mapping);
    require(mapping.range.start >= end, NoteType::mappings,
            "the mapping at {:#x} overlaps the one before or is out of order", mapping.range.start);
    end = mapping.range.end;
    const int32_t key = mapping.protection_key;
    require(key == 0 || (key > 0 && key < 16 && (process.protection_keys >> key & 1) != 0),
            NoteType::mappings, "the mapping at {:#x} has the protection key {}",
            mapping.range.start, key);
  }
  require((process.protection_keys & ~kProtectionKeys) == 0, NoteType::process,
          "protection_keys is {:#x}", process.protection_keys);
  require((process.lock_future & ~uint32_t{MCL_FUTURE | MCL_ONFAULT}) == 0, NoteType::process,
          "lock_future is {:#x}", process.lock_future);
  for (const MemoryPatch& patch : process.patches) {
    const auto range = Range::sized(patch.address, patch.bytes.size());
    const auto found = std::ranges::upper_bound(process.mappings, patch.address, {},
                                                [](const Mapping& m) { return m.range.end; });
    require(range && patch.bytes.size() <= kPageSize && found != process.mappings.end() &&
                found->range.contains(*range),
            NoteType::process, "the patch at {:#x} is not within a mapping", patch.address);
  }
  const MemoryLayout& layout = process.layout;
  for (const uint64_t address :
       {layout.start_code, layout.end_code, layout.start_data, layout.end_data, layout.start_brk,
        layout.brk, layout.start_stack, layout.arg_start, layout.arg_end, layout.env_start,
        layout.env_end}) {
    require(address <= host.address_limit, NoteType::process, "layout has the address {:#x}",
            address);
  }
}

void validate_signals(const Process& process) {
  constexpr NoteType kNote = NoteType::process;
  require(process.stop_signal >= 0 && process.stop_signal <= 64, kNote, "stop_signal is {}",
          process.stop_signal);
  require(process.actions.size() == 64, kNote, "there are {} signal actions",
          process.actions.size());
  for (int32_t i = 0; i < 64; ++i) {
    require(process.actions[static_cast<size_t>(i)].signal == i + 1, kNote,
            "signal action {} is out of order", i + 1);
  }
  for (const IntervalTimer& timer : process.timers) {
    require(timer.value_us >= 0 && timer.interval_us >= 0, kNote, "a timer is negative");
  }
  validate_pending(process.pending, kNote);
}

void validate_timers(const Process& process) {
  constexpr NoteType kNote = NoteType::process;
  const auto is_thread = [&](int32_t tid) {
    return tid == 0 ||
           std::ranges::find(process.threads, tid, &Thread::tid) != process.threads.end();
  };
  int32_t last = -1;
  for (const PosixTimer& timer : process.posix_timers) {
    require(timer.id > last, kNote, "POSIX timer {} is out of order", timer.id);
    last = timer.id;
    require(timer.value_ns >= 0 && timer.interval_ns >= 0 && timer.overrun >= 0, kNote,
            "POSIX timer {} is negative", timer.id);
    require(timer.signal >= 0 && timer.signal <= 64, kNote, "POSIX timer {} sends signal {}",
            timer.id, timer.signal);
    require(is_thread(timer.thread) && is_thread(timer.clock_thread), kNote,
            "POSIX timer {} names an unknown thread", timer.id);
  }
}

void validate_attributes(const Process& process) {
  constexpr NoteType kNote = NoteType::threads;
  constexpr uint32_t kMaxCpu = 1u << 16;
  for (const Thread& thread : process.threads) {
    require(std::ranges::all_of(thread.cpus, [](uint32_t cpu) { return cpu < kMaxCpu; }), kNote,
            "thread {} is bound to an impossible CPU", thread.tid);
    require(thread.settings.parent_death_signal >= 0 && thread.settings.parent_death_signal <= 64,
            kNote, "thread {} has the parent-death signal {}", thread.tid,
            thread.settings.parent_death_signal);
    for (const uint32_t filter : thread.seccomp_filters) {
      require(filter < process.seccomp_filters.size(), kNote,
              "thread {} names an unknown seccomp filter", thread.tid);
    }
  }
  for (const SeccompFilter& filter : process.seccomp_filters) {
    constexpr size_t kInstruction = 8, kMaxInstructions = 4096;  // BPF_MAXINSNS
    require(!filter.program.empty() && filter.program.size() % kInstruction == 0 &&
                filter.program.size() <= kInstruction * kMaxInstructions,
            NoteType::process, "a seccomp filter has {} bytes", filter.program.size());
  }
}

void validate_descriptors(const KnownIds& known, const Process& process) {
  constexpr NoteType kNote = NoteType::descriptors;
  std::vector<int32_t> fds;
  for (const Descriptor& descriptor : process.descriptors) {
    require(descriptor.fd >= 0, kNote, "a descriptor has the number {}", descriptor.fd);
    require(KnownIds::has(known.descriptions, descriptor.description), kNote,
            "descriptor {} names an unknown description", descriptor.fd);
    fds.push_back(descriptor.fd);
  }
  std::ranges::sort(fds);
  require(std::ranges::adjacent_find(fds) == fds.end(), kNote, "a descriptor is there twice");
}

}  // namespace

void validate_policy(const MemoryPolicy& policy, NoteType note) {
  constexpr int32_t kModes = 0xff;  // the rest are flags
  constexpr uint32_t kMostNodes = 1024;
  require(policy.mode >= 0 && (policy.mode & kModes) < 32, note, "a memory policy is {:#x}",
          policy.mode);
  for (const uint32_t node : policy.nodes) {
    require(node < kMostNodes, note, "a memory policy names the node {}", node);
  }
}

void validate_policies(const Process& process) {
  for (const Thread& thread : process.threads) {
    validate_policy(thread.memory_policy, NoteType::threads);
  }
  uint64_t end = 0;
  for (const RangePolicy& own : process.memory_policies) {
    require(own.range.start >= end && own.range.start < own.range.end &&
                own.range.start % kPageSize == 0 && own.range.end % kPageSize == 0,
            NoteType::process, "there is a memory policy at {:#x}", own.range.start);
    end = own.range.end;
    validate_policy(own.policy, NoteType::process);
  }
}

void validate_process(const Host& host, const KnownIds& known, const Process& process) {
  constexpr NoteType kNote = NoteType::process;
  require(process.pid > 0 && process.ppid >= 0 && process.pgid >= 0 && process.sid >= 0, kNote,
          "the process ids are {}, {}, {}, {}", process.pid, process.ppid, process.pgid,
          process.sid);
  require(process.name.size() < 16 && !has_nul(process.name), kNote, "the name is wrong");
  for (const std::string& argument : process.command_line) {
    require(!has_nul(argument), kNote, "an argument has a NUL byte");
  }
  require(
      KnownIds::has(process.executable_deleted ? known.objects : known.files, process.executable),
      kNote, "the executable is an unknown file or object");
  require(is_path(process.cwd), kNote, "cwd is no absolute path");
  require(is_path(process.root), kNote, "root is no absolute path");
  require(process.umask <= 0777, kNote, "umask is {:o}", process.umask);
  require(process.oom_score_adj >= -1000 && process.oom_score_adj <= 1000, kNote,
          "oom_score_adj is {}", process.oom_score_adj);
  require(!has_nul(process.credentials.user), kNote, "the user's name has a NUL byte");
  require(process.auxv.size() % 16 == 0 && process.auxv.size() <= kPageSize, kNote,
          "auxv has {} bytes", process.auxv.size());
  for (const Limit& limit : process.limits) {
    require(limit.soft <= limit.hard, kNote, "a limit is {} of {}", limit.soft, limit.hard);
  }
  validate_signals(process);
  require(!process.threads.empty(), NoteType::threads, "process {} has no thread", process.pid);
  for (const Thread& thread : process.threads) validate_thread(host, thread);
  validate_timers(process);
  validate_attributes(process);
  require(process.threads[0].tid == process.pid, NoteType::threads,
          "the first thread of process {} is not its leader", process.pid);
  validate_memory(host, known, process);
  validate_policies(process);
  validate_descriptors(known, process);
}

}  // namespace rfork::image
