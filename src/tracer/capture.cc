// capture, from top to bottom: freeze, read what only the frozen process tells, fork its memory,
// let it go, describe the rest from the copy. Every order below has a reason; the reasons stand
// where the order is.
#include "tracer/capture.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <functional>
#include <tuple>

#include "base/clock.h"
#include "base/io.h"
#include "tracer/capture_state.h"
#include "tracer/connection_silence.h"
#include "tracer/ipc_namespace.h"
#include "tracer/large_queues.h"
#include "tracer/memory_policy.h"
#include "tracer/posix_timers.h"
#include "tracer/process_state.h"
#include "tracer/ptrace.h"
#include "tracer/seccomp.h"
#include "tracer/thread_state.h"
#include "tracer/uncarried_x86_64.h"
#include "tracer/xstate_x86_64.h"

namespace rfork::tracer {

namespace {

// What a fork does not copy is kept in memory if it is no more than this, so that the original can
// go on at once; if it is more, the original waits until it has been streamed.
constexpr uint64_t kEarlyReadLimit = 12u << 20;

uint64_t padded_total(const std::vector<Piece>& pieces) {
  uint64_t total = 0;
  for (const Piece& piece : pieces) total += image::padded_size(piece.run);
  return total;
}

// The memory layout that was examined has changed in what a fork does not copy, between then and
// the freeze.
bool fork_would_lose(const std::vector<MapsLine>& maps, const std::vector<MapsLine>& copied,
                     std::vector<Range> not_forked) {
  std::ranges::sort(not_forked, {}, &Range::start);
  // In ranges in order, none of which overlaps another.
  const auto is_in = [](const auto& ranges, const auto& range_of, const Range& range) {
    const auto at = std::ranges::partition_point(
        ranges, [&](const Range& one) { return one.end <= range.start; }, range_of);
    return at != ranges.end() && std::invoke(range_of, *at).overlaps(range);
  };
  return std::ranges::any_of(maps, [&](const MapsLine& line) {
    return !is_in(copied, &MapsLine::range, line.range) &&
           !is_in(not_forked, std::identity(), line.range);
  });
}

auto all_of(const image::Credentials& who) {
  return std::tie(who.uid, who.euid, who.suid, who.fsuid, who.gid, who.egid, who.sgid, who.fsgid,
                  who.groups, who.cap_inheritable, who.cap_permitted, who.cap_effective,
                  who.cap_bounding, who.cap_ambient, who.securebits);
}

// What /proc/PID says of a process is what its leader has.
void keep_what_differs(CapturedThread& captured, image::Process& process) {
  image::Thread& thread = captured.thread;
  if (process.threads.empty()) {
    process.credentials.securebits = captured.credentials.securebits;
  } else if (captured.credentials.cap_permitted == 0) {
    captured.credentials.securebits = process.credentials.securebits;  // not asked for
  }
  if (all_of(captured.credentials) != all_of(process.credentials))
    thread.credentials = std::move(captured.credentials);
  if (thread.no_new_privs == process.no_new_privs) thread.no_new_privs.reset();
}

}  // namespace

std::optional<Range> vdso_range(const std::vector<MapsLine>& maps) {
  for (const MapsLine& line : maps) {
    if (line.name == "[vdso]") return line.range;
  }
  return std::nullopt;
}

namespace {

void place_guards(std::vector<image::Mapping>& mappings, const std::vector<Range>& guards) {
  for (const Range& guard : guards) {
    const auto after = std::partition_point(
        mappings.begin(), mappings.end(),
        [&](const image::Mapping& mapping) { return mapping.range.start <= guard.start; });
    if (after != mappings.begin()) std::prev(after)->guards.push_back(guard);
  }
  for (image::Mapping& mapping : mappings) {
    std::ranges::sort(mapping.guards, {}, &Range::start);
  }
}

bool has_locked_memory(pid_t pid) {
  const auto status = parse_status(read_file(fmt::format("/proc/{}/status", pid)));
  const auto locked = status.find("VmLck");
  return locked == status.end() || locked->second != "0 kB";
}

std::vector<Range> ranges_of(const auto& mappings) {
  std::vector<Range> ranges;
  for (const auto& mapping : mappings) ranges.push_back(mapping.range);
  return ranges;
}

/// The kernel gives execute-only memory a key of its own, and gives it again.
void leave_execute_only_keys(image::Process& process) {
  for (image::Mapping& mapping : process.mappings) {
    if (mapping.protection != PROT_EXEC || mapping.protection_key == 0) continue;
    process.protection_keys &= ~(1u << mapping.protection_key);
    mapping.protection_key = 0;
  }
}

}  // namespace

void Capture::State::freeze(std::vector<MapsLine>& maps) {
  stopped = std::make_unique<StoppedProcess>(pid, options.interrupted);
  snapshot.realtime_ns = clock_ns(CLOCK_REALTIME);
  snapshot.monotonic_ns = clock_ns(CLOCK_MONOTONIC);
  snapshot.boottime_ns = clock_ns(CLOCK_BOOTTIME);
  maps = parse_maps(read_file(fmt::format("/proc/{}/maps", pid)));
  const auto vdso = vdso_range(maps);
  if (vdso) stopped->leave_range(*vdso);
  refuse_syscall_dispatch(stopped->threads());
  if (!options.drop_attributes) refuse_debug_registers(stopped->threads());
  // Before the first injected call, after which the kernel would have forgotten the section.
  for (StoppedThread& thread : stopped->threads()) abort_rseq_section(thread, original);
  std::vector<Range> read_only;
  for (const MapsLine& line : maps) {
    if (!line.write) read_only.push_back(line.range);
  }
  site = std::make_unique<InjectionSite>(pid, original, vdso.value_or(Range{}),
                                         examination.needs.host, std::move(read_only));
}

void Capture::State::read_threads(image::Process& process) {
  for (StoppedThread& thread : stopped->threads()) {
    CapturedThread captured = capture_thread(pid, thread, original, *site,
                                             (stopped->options() & PTRACE_O_SUSPEND_SECCOMP) != 0);
    keep_what_differs(captured, process);
    read_seccomp(thread.tid, captured.thread.seccomp_mode, process, captured.thread);
    process.threads.push_back(std::move(captured.thread));
    if (captured.patch) process.patches.push_back(std::move(*captured.patch));
  }
  process.stop_signal = stopped->stop_signal();
}

// Through injected calls of the main thread: what a fork has not (timers), then the fork itself.
// Without a fork (a move, or the process forbids it) the rest is asked here too.
void Capture::State::read_process_wide(image::Process& process, const std::vector<MapsLine>& maps) {
  const StoppedThread& main_thread = stopped->threads().front();
  RemoteSyscalls calls(main_thread, original, *site, going_on(process.threads.front()));
  read_timers_and_signals(calls, process);
  if (has_locked_memory(pid)) ask_future_locks(calls, pid, process);
  ask_own_settings(calls, original, process.settings);
  if (!options.move || options.glance) {
    copy = ForkedCopy::make(calls, pid, stopped->options(), *site);
  }
  if (copy) {
    const auto copied = parse_maps(read_file(fmt::format("/proc/{}/maps", copy->pid())));
    if (fork_would_lose(maps, copied, examination.not_forked)) copy.reset();
  }
  if (!copy) refuse_uncarried(calls);
  if (!copy) ask_process(calls, original, examination.needs.host, process);
  if (!copy) process.threads.front().memory_policy = ask_thread_policy(calls, original);
  // A fork has no policies for what it lacks.
  if (!copy || !examination.not_forked.empty()) {
    process.memory_policies = ask_range_policies(calls, original, ranges_of(maps));
  }
}

user_regs_struct Capture::State::going_on(const image::Thread& thread) {
  user_regs_struct registers;
  std::memcpy(&registers, thread.registers.data(), sizeof registers);
  return registers;
}

void Capture::State::take_stock(const image::Process& process, const std::vector<MapsLine>& maps,
                                const std::set<std::string>& present) {
  InventoryInput input;
  input.pid = pid;
  input.maps = maps;
  // A fork keeps the flags of mappings, but for memory locks.
  const bool from_copy = copy && !has_locked_memory(pid) && examination.not_forked.empty();
  // The kernel walks the whole page table to write smaps, so the frozen process doesn't wait for it
  // if it need not.
  refresh_from_copy = from_copy;
  input.smaps = from_copy ? examination.inventory->smaps : read_smaps(pid);
  input.drop_fds = options.drop_fds;
  input.drop_locks = options.drop_locks;
  input.move = options.move;
  input.drop_connections = options.drop_connections;
  input.keep_tcp = options.keep_tcp;
  input.into_file = options.move && options.into_file;
  input.remade = options.silence != nullptr;
  input.relay = options.relay;
  input.forked = options.forked;
  input.leave_children = options.leave_children;
  input.own_segments = options.own_segments;
  input.relay_input = options.relay_input;
  input.glance = options.glance;
  input.earlier = examination.inventory.get();
  input.copy = copy ? copy->pid() : 0;
  inventory = take_inventory(input);
  find_large_queues(inventory);
  if (!options.leave_children) find_children(pid, inventory.obstacles);
  if (!inventory.obstacles.empty()) throw Refusal(Failure::cannot_carry, inventory.obstacles);
  add_file_objects(inventory, pid, {options.thin, present});
  RemoteSyscalls calls(stopped->threads().front(), original, *site,
                       going_on(process.threads.front()));
  add_what_no_fork_copies(contents, inventory, original, ResidentPages(calls, original),
                          examination.not_forked);
  pieces_of_original = contents.pieces.size();
}

/// If we die in the middle of it the process stays stopped until the witness has tidied up. Behind
/// the last injected call, which would meet the stop.
void Capture::State::read_connections() {
  if (options.silence == nullptr) return;
  if (!options.glance) {
    options.silence->begin(inventory, stopped->stop_signal() != 0);
    hold();
  }
  options.silence->read(inventory, options.glance);
  find_large_queues(inventory);
  if (!inventory.obstacles.empty()) throw Refusal(Failure::cannot_carry, inventory.obstacles);
}

void Capture::State::read_early_pieces() {
  if (options.move || options.glance || !copy || padded_total(contents.pieces) > kEarlyReadLimit)
    return;
  early.resize(padded_total(contents.pieces));
  std::span<std::byte> rest(early);
  for (const Piece& piece : contents.pieces) {
    const size_t size = image::padded_size(piece.run);
    read_piece(piece, 0, rest.first(size));
    rest = rest.subspan(size);
  }
  read_early = true;
}

// Of what only the process itself can be asked, as a fork inherits it.
void Capture::State::refuse_uncarried(RemoteSyscalls& calls) const {
  if (options.drop_attributes) return;
  refuse_own_segments(calls, pid);
  if (landlock) landlock->refuse_domain(calls);
}

// Signal actions, flags of mappings and the like, asked of the copy while the original runs again.
void Capture::State::describe_copy(image::Process& process) {
  StoppedThread thread;
  thread.tid = copy->pid();
  thread.registers = registers(copy->pid());
  {
    RemoteSyscalls calls(thread, copy->memory(), *site, thread.registers);
    refuse_uncarried(calls);
    ask_process(calls, copy->memory(), examination.needs.host, process);
    process.threads.front().memory_policy = ask_thread_policy(calls, copy->memory());
    if (examination.not_forked.empty()) {
      process.memory_policies =
          ask_range_policies(calls, copy->memory(), ranges_of(inventory.mappings));
    }
    if (refresh_from_copy) refresh_flags(inventory, read_smaps(copy->pid()));
    if (!inventory.obstacles.empty()) throw Refusal(Failure::cannot_carry, inventory.obstacles);
    if (!options.glance) copied_pages = PagePipe::make(calls, copy->memory());
  }
  site->remove_from(copy->memory());
}

void Capture::State::let_go() {
  if (!stopped) return;
  if (site) site->remove(pid);
  paused = std::chrono::steady_clock::now() - stopped->stopped_at();
  stopped.reset();
}

void Capture::State::assemble(image::Process process) {
  add_snapshot(contents, inventory, snapshot_memory(), examination.not_forked);
  for (const Piece& piece : contents.pieces) runs.push_back(piece.run);
  process.patches.insert(process.patches.end(), options.patches.begin(), options.patches.end());
  process.executable = inventory.executable;
  process.executable_deleted = inventory.executable_deleted;
  process.mappings = inventory.mappings;
  place_guards(process.mappings, contents.guards);
  leave_execute_only_keys(process);
  process.descriptors = inventory.descriptors;
  snapshot.host = examination.needs.host;
  const image::Host carried_as = with_common_xstate_layout(snapshot.host);
  for (image::Thread& thread : process.threads) {
    thread.xstate = move_xstate(thread, snapshot.host, carried_as);
  }
  snapshot.host = carried_as;
  snapshot.moved = options.move;
  snapshot.thin = options.thin;
  snapshot.drop_attributes = options.drop_attributes;
  if (!inventory.kept.empty()) snapshot.holder = options.holder;
  add_directories(inventory, pid, process.cwd);
  snapshot.files = inventory.files;
  snapshot.objects = inventory.objects;
  snapshot.descriptions = inventory.descriptions;
  snapshot.processes.push_back(std::move(process));
}

void Capture::State::read(const Piece& piece, std::span<std::byte> buffer) {
  if (copied_pages && piece.memory == &copy->memory() && piece.fd < 0) {
    copied_pages->read(piece.address + offset, buffer, piece.address + piece.run.range.size());
  } else {
    read_piece(piece, offset, buffer);
  }
}

Capture::Capture(const Examination& examination, const Options& options,
                 const std::set<std::string>& present)
    : state_(std::make_unique<State>(examination, options)) {
  State& state = *state_;
  std::vector<MapsLine> maps;
  if (!options.drop_attributes) state.landlock = LandlockProbe::make(state.pid);
  state.freeze(maps);
  image::Process process = read_process(state.pid);
  state.read_threads(process);
  state.read_process_wide(process, maps);
  state.settle_timer_threads(process);
  state.take_stock(process, maps, present);
  state.read_connections();
  state.check_interrupted();
  state.read_early_pieces();
  if (state.read_early || (options.glance && state.copy)) state.let_go();
  if (state.copy) {
    state.describe_copy(process);
  } else {
    // All injected calls are made: what is read from now on is the process as it was.
    state.site->remove(state.pid);
  }
  state.assemble(std::move(process));
  if (options.glance) state.let_go();
}

Capture::~Capture() {
  try {
    release();
  } catch (const std::exception&) {
    // The process has ended meanwhile: nothing is left to let go.
  }
}

const image::Snapshot& Capture::snapshot() const {
  return state_->snapshot;
}
std::span<const image::DataRun> Capture::runs() const {
  return state_->runs;
}

size_t Capture::read(std::span<std::byte> buffer) {
  State& state = *state_;
  state.check_interrupted();
  size_t done = 0;
  while (done < buffer.size() && state.next_piece < state.contents.pieces.size()) {
    const Piece& piece = state.contents.pieces[state.next_piece];
    const uint64_t piece_size = image::padded_size(piece.run);
    const size_t size =
        static_cast<size_t>(std::min<uint64_t>(buffer.size() - done, piece_size - state.offset));
    const std::span<std::byte> target = buffer.subspan(done, size);
    if (state.read_early && state.next_piece < state.pieces_of_original) {
      std::memcpy(target.data(), state.early.data() + state.early_offset, size);
      state.early_offset += size;
    } else {
      state.read(piece, target);
    }
    done += size;
    state.offset += size;
    if (state.offset < piece_size) continue;
    state.offset = 0;
    ++state.next_piece;
    if (state.next_piece == state.pieces_of_original && state.copy) state.let_go();
  }
  if (state.next_piece == state.contents.pieces.size() && !state.options.move) state.let_go();
  return done;
}

std::map<uint32_t, UniqueFd> Capture::take_relays() {
  return std::move(state_->inventory.relays);
}

std::vector<KeptSocket> Capture::take_kept() {
  return std::move(state_->inventory.kept);
}

std::chrono::nanoseconds Capture::paused() const {
  if (state_->stopped) return std::chrono::steady_clock::now() - state_->stopped->stopped_at();
  return state_->paused;
}

}  // namespace rfork::tracer
