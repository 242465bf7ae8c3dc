// The restore as a list of passes: Restore::State::State prepares all that needs no process,
// begin() makes the process, write_second_part() plans what depends on the page data.
#include "loader/restore.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/io.h"
#include "loader/address_space.h"
#include "loader/channel.h"
#include "loader/host_files.h"
#include "loader/identity.h"
#include "loader/memory_plan.h"
#include "loader/open_files.h"
#include "loader/process_plan.h"
#include "loader/spawn.h"
#include "loader/stub_image.h"
#include "loader/thread_frames.h"
#include "loader/thread_plan.h"
#include "loader/vdso_x86_64.h"

namespace rfork::loader {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kAddressLimit =
    0x7ffffffff000;  // of 4-level paging, which is all that a new program uses

uint64_t round_up(uint64_t size) {
  return (size + kPage - 1) & ~(kPage - 1);
}

enum HelperIndex { kControl, kRing, kStub, kPlan };

/// Page data of the image's vDSO on its way through the stream.
struct VdsoRun {
  uint64_t stream_offset = 0, size = 0, vdso_offset = 0;
};

}  // namespace

struct Restore::State {
  State(const image::Metadata& metadata, const Options& options);
  ~State();

  void begin();
  void write_second_part();
  void note_vdso(std::span<const std::byte> data);
  [[noreturn]] void explain(const plan::Message* message);

  const image::Metadata& metadata_;
  const image::Snapshot& snapshot_;
  const image::Process& process_;
  const Options options_;
  Findings findings_;
  image::Host here_;
  KernelVdso kernel_;
  std::optional<TargetUser> user_;
  std::vector<Place> places_;
  std::unique_ptr<HostFiles> files_;
  std::unique_ptr<OpenFiles> open_files_;
  ProcessSettings settings_;
  ThreadFrames frames_;
  Hole hole_;
  uint64_t vdso_place_ = 0;
  HelperFds helpers_;
  HandedFds handed_{helpers_};
  UniqueFd stub_;
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<PlanWriter> plan_;
  std::unique_ptr<MemoryPlan> memory_;

  std::optional<Spawned> spawned_;
  Place place_;
  bool reaped_ = false, released_ = false;
  uint64_t streamed_ = 0;
  std::vector<VdsoRun> vdso_runs_;
  Bytes vdso_carried_;

 private:
  void check_image();
  void find_files();
  std::vector<image::Mapping> place_memory();
  void place_hole(AddressSpace& space);
  void make_plan(std::vector<image::Mapping> mappings);
  void expect_vdso();
  void add_frames();
  void fill_header();
  void add_last_steps(const ThreadPlanInput& input);
};

// --- before anything runs
// -------------------------------------------------------------------------

Restore::State::State(const image::Metadata& metadata, const Options& options)
    : metadata_(metadata),
      snapshot_(metadata.snapshot),
      process_(metadata.snapshot.processes.at(0)),
      options_(options),
      here_(image::this_host()),
      kernel_(kernel_vdso()) {
  check_image();
  user_ = target_user(process_, options_, findings_);
  places_ = choose_places(snapshot_, options_, findings_);
  find_files();
  findings_.check();
  std::vector<image::Mapping> mappings = place_memory();
  make_plan(std::move(mappings));
  expect_vdso();
}

void Restore::State::check_image() {
  if (snapshot_.processes.size() != 1 || process_.threads.empty()) {
    throw Refusal(Failure::destination_refused,
                  fmt::format("the image has {} processes, and this version restores one",
                              snapshot_.processes.size()));
  }
  for (Reason& reason : image::misfits(image::needs_of(snapshot_), here_, {options_.ignore_cpu})) {
    findings_.reasons.push_back(std::move(reason));
  }
  if (process_.mappings.back().range.end > here_.address_limit) {
    findings_.refuse("the process uses addresses that this host hasn't");
  }
}

void Restore::State::find_files() {
  rlimit limit{};
  const rlim_t wanted = snapshot_.files.size() * 2 + snapshot_.objects.size() * 2 +
                        snapshot_.descriptions.size() + 64;
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  const ActAs as_user(user_);
  files_ = std::make_unique<HostFiles>(snapshot_, options_, findings_);
  open_files_ = std::make_unique<OpenFiles>(snapshot_, options_, *files_, findings_);
  helpers_.base = std::max(open_files_->highest() + 1, 3);
  settings_ =
      process_settings(process_, *files_, helpers_.base + static_cast<int>(wanted), findings_);
}

std::vector<image::Mapping> Restore::State::place_memory() {
  std::vector<image::Mapping> mappings = process_.mappings;
  AddressSpace space(mappings, std::min(here_.address_limit, kAddressLimit));
  const auto room = room_for_exit_code(kernel_.code);
  frames_ = place_frames(snapshot_, here_, mappings, space, !room);
  const auto vdso = std::find_if(mappings.begin(), mappings.end(), [](const auto& mapping) {
    return mapping.kind == image::Mapping::Kind::vdso;
  });
  uint64_t special_size = 0;
  for (const SpecialMapping& special : kernel_.layout) special_size += special.size;
  const auto place = space.place_to_stay(
      special_size, vdso == mappings.end() ? process_.layout.start_stack : vdso->range.start,
      process_.layout.brk);
  if (!place)
    throw Refusal(Failure::destination_refused, "the image's address space has no room for a vDSO");
  vdso_place_ = *place;
  space.take({vdso_place_, vdso_place_ + special_size});
  place_hole(space);
  return mappings;
}

void Restore::State::place_hole(AddressSpace& space) {
  uint64_t frame_bytes = 0, patch_bytes = 0, special_size = 0;
  for (const ThreadFrame& frame : frames_.threads) frame_bytes += frame.frame.bytes.size() + 4096;
  for (const auto& patch : process_.patches) patch_bytes += patch.bytes.size() + 8;
  for (const SpecialMapping& special : kernel_.layout) special_size += special.size;
  const uint64_t threads = process_.threads.size();
  const uint64_t max_ops = metadata_.runs.size() * 2 + process_.mappings.size() * 14 +
                           threads * 160 + process_.descriptors.size() * 4 +
                           process_.patches.size() + snapshot_.objects.size() * 8 + 1024;
  const uint64_t data = frame_bytes + patch_bytes + threads * 65536 +
                        process_.mappings.size() * 512 + process_.descriptors.size() * 4200 +
                        process_.auxv.size() + (1u << 20);
  hole_.plan_size = round_up(kPage + max_ops * sizeof(plan::Op) + data);
  hole_.text_size = round_up(stub_image().size());
  hole_.stacks_size = threads * plan::kStackSize;
  const uint64_t size =
      hole_.plan_size + hole_.text_size + plan::kRingSize + special_size + hole_.stacks_size;
  const auto start = space.place_for_hole(size);
  if (!start)
    throw Refusal(Failure::destination_refused,
                  "the image's address space has no room for the restore");
  hole_.start = *start;
  hole_.text = hole_.start + hole_.plan_size;
  hole_.ring = hole_.text + hole_.text_size;
  hole_.parked = hole_.ring + plan::kRingSize;
  hole_.stacks = hole_.parked + special_size;
  hole_.end = hole_.start + size;
  plan_ = std::make_unique<PlanWriter>(hole_, max_ops);
}

void Restore::State::make_plan(std::vector<image::Mapping> mappings) {
  channel_ = std::make_unique<Channel>(options_.step_timeout,
                                       [this](const plan::Message* message) { explain(message); });
  stub_ = executable_stub();
  helpers_.hand(channel_->child_end());
  helpers_.hand(channel_->ring_fd());
  helpers_.hand(stub_.get());
  helpers_.hand(plan_->file());
  memory_ = std::make_unique<MemoryPlan>(metadata_, std::move(mappings), frames_, *files_);
  memory_->add_mappings(*plan_, handed_);
  memory_->add_stream(*plan_, handed_);
  for (const char* part : {"memory", "process"}) {
    plan_->op(plan::OpKind::await_plan, {}, fmt::format("wait for the plan of the {}", part));
  }
  open_files_->hand(handed_);
  for (const auto& [fd, seals] : files_->seals()) handed_(fd);
  if (files_->executable() >= 0) handed_(files_->executable());
  fill_header();
}

void Restore::State::fill_header() {
  plan::Header& header = plan_->header();
  header.magic = plan::kMagic;
  header.hole_start = hole_.start, header.hole_end = hole_.end;
  header.address_limit = kAddressLimit;
  header.plan_size = hole_.plan_size;
  header.text_address = hole_.text, header.text_offset = hole_.plan_size,
  header.text_size = hole_.text_size;
  header.ring_address = hole_.ring;
  header.stacks_address = hole_.stacks, header.stacks_size = hole_.stacks_size;
  header.stack_end = hole_.stacks + plan::kStackSize;
  header.special_count = kernel_.layout.size();
  uint64_t parked = hole_.parked;
  for (size_t i = 0; i < kernel_.layout.size(); ++i) {
    header.special[i] = {kernel_.layout[i].from_vdso, kernel_.layout[i].size, parked};
    parked += kernel_.layout[i].size;
  }
  header.first_count = plan_->next();
  header.control_fd = helpers_.base + kControl;
  header.ring_fd = helpers_.base + kRing;
  header.leaving = static_cast<uint32_t>(process_.threads.size());
}

// --- the vDSO, which passes by in the stream
// ------------------------------------------------------

void Restore::State::expect_vdso() {
  uint64_t offset = 0;
  for (const image::DataRun& run : metadata_.runs) {
    for (const image::Mapping& mapping : process_.mappings) {
      if (mapping.kind != image::Mapping::Kind::vdso ||
          run.target != image::DataRun::Target::memory)
        continue;
      if (!mapping.range.contains(run.range)) continue;
      vdso_runs_.push_back({offset, run.range.size(), run.range.start - mapping.range.start});
      vdso_carried_.resize(mapping.range.size());
    }
    offset += image::padded_size(run);
  }
}

void Restore::State::note_vdso(std::span<const std::byte> data) {
  for (const VdsoRun& run : vdso_runs_) {
    const uint64_t start = std::max(run.stream_offset, streamed_);
    const uint64_t end = std::min(run.stream_offset + run.size, streamed_ + data.size());
    if (start >= end) continue;
    std::copy_n(data.begin() + static_cast<ptrdiff_t>(start - streamed_), end - start,
                vdso_carried_.begin() +
                    static_cast<ptrdiff_t>(run.vdso_offset + start - run.stream_offset));
  }
  streamed_ += data.size();
}

// --- the process
// ----------------------------------------------------------------------------------

void Restore::State::begin() {
  SpawnRequest request;
  request.pid = process_.pid;
  request.new_session = !options_.foreground;
  request.stub_helper = kStub;
  request.control_fd = channel_->child_end();
  request.plan_number = helpers_.base + kPlan;
  request.helpers = &helpers_;
  const auto own_score = try_read_file_at(-1, "/proc/self/oom_score_adj");
  if (own_score && std::atoi(own_score->c_str()) != process_.oom_score_adj) {
    request.oom_score_adj = process_.oom_score_adj;
  }
  SpawnFailure failure;
  for (const Place& place : places_) {
    request.place = place;
    spawned_ = spawn(request, &failure);
    place_ = place;
    if (spawned_) break;
  }
  if (!spawned_)
    throw Error(plan_->words(failure.step), failure.error, {}, Failure::destination_refused);
  channel_->close_child_end();
}

void Restore::State::explain(const plan::Message* message) {
  if (message != nullptr) {
    throw Error(plan_->words(message->index), message->error, {}, Failure::destination_refused);
  }
  int status = 0;
  const std::string step = plan_->words(plan_->header().current_op);
  if (spawned_ && ::waitpid(spawned_->wait_pid, &status, 0) == spawned_->wait_pid) {
    reaped_ = true;
    const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status) - 128;
    if (signal > 0) {
      throw Refusal(Failure::destination_refused,
                    fmt::format("the restoring process was ended by signal {} ({}) at: {}", signal,
                                ::strsignal(signal), step));
    }
  }
  throw Refusal(Failure::destination_refused,
                fmt::format("the restoring process ended at: {}", step));
}

Restore::State::~State() {
  if (!spawned_ || released_ || reaped_) return;
  ::kill(spawned_->wait_pid, SIGKILL);
  while (::waitpid(spawned_->wait_pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Restore::State::add_frames() {
  using plan::OpKind;
  if (!frames_.leftover.empty()) {
    plan_->call(SYS_mmap,
                {frames_.leftover.start, frames_.leftover.size(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, UINT64_MAX, 0},
                "mmap of the frames that stay", static_cast<int64_t>(frames_.leftover.start));
  }
  for (size_t i = 0; i < frames_.threads.size(); ++i) {
    const SignalFrame& frame = frames_.threads[i].frame;
    plan_->op(OpKind::copy, {frame.address, plan_->data(frame.bytes), frame.bytes.size()},
              fmt::format("write the signal frame of thread {}", process_.threads[i].tid));
  }
  if (frames_.code_stays) {
    const Bytes code = exit_code();
    plan_->op(OpKind::copy, {frames_.exit_code, plan_->data(code), code.size()},
              "write the exit code");
  }
  if (!frames_.leftover.empty()) {
    plan_->call(SYS_mprotect,
                {frames_.leftover.start, frames_.leftover.size(),
                 static_cast<uint64_t>(frames_.code_stays ? PROT_READ | PROT_EXEC : PROT_READ)},
                "mprotect of the frames that stay");
  }
}

void Restore::State::write_second_part() {
  add_frames();
  memory_->add_finish(*plan_);
  const uint64_t vdso =
      add_vdso(*plan_, {kernel_, process_, hole_.parked, vdso_place_}, vdso_carried_);
  uint64_t exit_address = frames_.exit_code;
  if (!frames_.code_stays) {
    const uint64_t offset = *room_for_exit_code(kernel_.code);
    add_exit_code(*plan_, kernel_, vdso, offset);
    exit_address = vdso + offset;
  }
  const uint64_t memory_end = plan_->next();

  const ThreadPlanInput input{
      process_, frames_, hole_, user_, place_.keep_ids, spawned_->drop_capabilities, exit_address};
  const std::vector<OpRange> bodies = add_thread_bodies(*plan_, input);
  const uint64_t leader = plan_->next();
  add_signal_actions(*plan_, process_);
  const int exe = files_->executable();
  add_memory_layout(*plan_, process_, settings_, exe >= 0 ? handed_(exe) : -1);
  add_shared_settings(*plan_, process_, settings_);
  open_files_->add_handed(*plan_, handed_);
  for (const auto& [fd, seals] : files_->seals()) {
    plan_->call(SYS_fcntl, {static_cast<uint64_t>(handed_(fd)), F_ADD_SEALS, seals},
                "seal a memfd");
  }
  add_thread_starts(*plan_, input, bodies);
  add_thread_state(*plan_, input, 0);
  add_last_steps(input);

  // Memory first, then the leader; the bodies between them are the threads'.
  for (const auto& [first, end] :
       {std::pair{plan_->header().first_count, memory_end}, {leader, plan_->next()}}) {
    plan::Message message{};
    message.kind = plan::MessageKind::more;
    message.index = static_cast<int64_t>(first);
    message.length = end - first;
    channel_->send(message);
  }
}

void Restore::State::add_last_steps(const ThreadPlanInput& input) {
  using plan::OpKind;
  add_pending_signals(*plan_, process_);
  add_limits(*plan_, settings_);
  add_credentials(*plan_, input);
  add_working_directory(*plan_, settings_);
  open_files_->add_opened_by_child(*plan_);
  plan_->op(OpKind::gather_threads, {process_.threads.size() - 1}, "wait for the threads");
  add_dumpable(*plan_, process_);
  plan_->op(OpKind::ready, {}, "wait to be let go");
  add_timers(*plan_, process_);
  plan_->call(SYS_close_range, {static_cast<uint64_t>(helpers_.base), UINT32_MAX, 0},
              "close the restore's descriptors");
  if (process_.stop_signal != 0) {
    const uint64_t index = plan_->call(SYS_kill, {0, SIGSTOP}, "stop");
    plan_->at(index).own_pid = 1u << 0;
  }
  plan_->op(OpKind::open_gate, {}, "open the gate");
  add_leave(*plan_, input, 0);
}

// --- the interface
// --------------------------------------------------------------------------------

Restore::Restore(const image::Metadata& metadata, const Options& options)
    : state_(std::make_unique<State>(metadata, options)) {}

Restore::~Restore() = default;

const std::vector<std::string>& Restore::warnings() const {
  return state_->findings_.warnings;
}

void Restore::start() {
  state_->begin();
}

std::span<std::byte> Restore::next_slot() {
  return state_->channel_->next_slot();
}

void Restore::submit(size_t size) {
  state_->note_vdso(state_->channel_->current_slot().first(size));
  state_->channel_->submit(size);
}

pid_t Restore::wait_ready() {
  state_->write_second_part();
  state_->channel_->await(plan::MessageKind::ready, "the child to be ready");
  return state_->channel_->peer_pid();
}

void Restore::go() {
  {
    const ActAs as_user(state_->user_);
    state_->files_->keep();
  }
  plan::Message message{};
  message.kind = plan::MessageKind::go;
  state_->channel_->send(message);
  state_->channel_->await(plan::MessageKind::running, "the child to run");
  state_->released_ = true;
}

pid_t Restore::wait_pid() const {
  return state_->spawned_ ? state_->spawned_->wait_pid : 0;
}

ChildEnd Restore::child_end(int wait_status) {
  // An init gives its child's own status through a pipe, for an exit code can't tell 137 from
  // SIGKILL.
  if (state_->spawned_->has_init) {
    int status = 0;
    const ssize_t got = ::read(state_->spawned_->end_pipe.get(), &status, sizeof status);
    if (got == sizeof status) wait_status = status;
  }
  if (WIFSIGNALED(wait_status)) return {true, WTERMSIG(wait_status), WCOREDUMP(wait_status) != 0};
  return {false, WEXITSTATUS(wait_status), false};
}

pid_t Restore::inner_pid() const {
  return state_->place_.keep_ids ? state_->process_.pid : state_->channel_->peer_pid();
}

}  // namespace rfork::loader
