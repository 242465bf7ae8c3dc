// The first half of a restore: everything that can be checked, opened and planned before a process
// exists.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>

#include "loader/restore_state.h"
#include "loader/seccomp_filters.h"
#include "loader/stub_image.h"

namespace rfork::loader {

namespace {

// Of 4-level paging, which is all that a new program uses.
constexpr uint64_t kAddressLimit = 0x7ffffffff000;

uint64_t round_up(uint64_t size) {
  return (size + kPageSize - 1) & ~(kPageSize - 1);
}

}  // namespace

Restore::State::State(const image::Metadata& metadata, const Options& options)
    : metadata_(metadata),
      snapshot_(metadata.snapshot),
      process_(metadata.snapshot.processes.at(0)),
      options_(options),
      here_(image::this_host()),
      kernel_(kernel_vdso()),
      held_(snapshot_, options.take_held),
      remade_(snapshot_) {
  check_image();
  user_ = target_user(process_, options_, findings_);
  segments_ = std::make_unique<SysvSegments>(snapshot_, options_, user_, findings_);
  places_ = choose_places(snapshot_, options_, segments_->own_namespace(), findings_);
  find_files();
  attributes_ = fit_attributes(snapshot_, here_, options_, parent_stays(places_.front(), options_),
                               findings_);
  policies_ = std::make_unique<MemoryPolicies>(process_, findings_);
  check_seccomp(process_, findings_);
  check_thread_credentials(process_, user_, attributes_.lenient, findings_);
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
  for (Reason& reason : image::misfits(image::needs_of(snapshot_), here_,
                                       {options_.ignore_cpu, options_.drop_attributes})) {
    findings_.reasons.push_back(std::move(reason));
  }
  if (process_.mappings.back().range.end > here_.address_limit) {
    findings_.refuse("the process uses addresses that this host hasn't");
  }
}

void Restore::State::find_files() {
  rlimit limit{};
  const rlim_t wanted = snapshot_.files.size() * 2 + snapshot_.objects.size() * 2 +
                        snapshot_.descriptions.size() * 3 + 64;
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  if (remade_.any() && !options_.remake_connections) {
    findings_.refuse(
        "the image has TCP connections whose address moves, and only a move makes them");
    findings_.check();
  }
  remade_.make(findings_);
  open_as_user();
  // Above what is open here, too: so none of it stands where another one goes.
  const auto open = try_list_numbers("/proc/self/fd").value_or(std::vector<int>());
  helpers_.base = std::max({open_files_->highest() + 1, open.empty() ? 0 : open.back() + 1, 3});
  const size_t handed =
      snapshot_.files.size() + snapshot_.objects.size() + snapshot_.descriptions.size() + 64;
  const std::string cwd = std::move(settings_.cwd);
  settings_ = process_settings(process_, helpers_.base + static_cast<int>(handed), findings_);
  settings_.cwd = cwd;
}

/// Everything that the image names by path is looked at with the rights of the child's user.
void Restore::State::open_as_user() {
  const ActAs as_user(user_);
  files_ = std::make_unique<HostFiles>(snapshot_, options_, findings_);
  open_files_ =
      std::make_unique<OpenFiles>(snapshot_, options_, *files_, held_, remade_, findings_);
  if (process_.cwd_removed) removed_cwd_ = CreatedFiles::removed_directory(process_.cwd);
  if (!removed_cwd_) settings_.cwd = working_directory(process_, *files_, findings_);
}

std::vector<image::Mapping> Restore::State::place_memory() {
  std::vector<image::Mapping> mappings = process_.mappings;
  AddressSpace space(mappings, std::min(here_.address_limit, kAddressLimit));
  const auto room = room_for_exit_code(kernel_.code);
  frames_ = place_frames(snapshot_, here_, mappings, space, !room);
  note_lost_registers(process_, frames_, findings_);
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
  space.take({hole_.start, hole_.end});
  segments_->take_room(space);
  return mappings;
}

void Restore::State::place_hole(AddressSpace& space) {
  uint64_t frame_bytes = 0, patch_bytes = 0, special_size = 0;
  for (const ThreadFrame& frame : frames_.threads) frame_bytes += frame.frame.bytes.size() + 4096;
  if (frames_.leftover.size() > 0) frame_bytes += frames_.leftover.size();
  for (const auto& patch : process_.patches) patch_bytes += patch.bytes.size() + 8;
  for (const SpecialMapping& special : kernel_.layout) special_size += special.size;
  uint64_t locks = 0;  // and watches: as many operations, and no more data
  uint64_t messages = 0, message_bytes = 0;
  for (const image::Description& description : snapshot_.descriptions) {
    locks += description.locks.size() + operations_for_watches(description);
    if (!description.socket) continue;
    messages += description.socket->messages.size() + 1;
    for (const auto& message : description.socket->messages) {
      message_bytes += message.data.size() + 16;
    }
  }
  uint64_t guards = 0;
  for (const image::Mapping& mapping : process_.mappings) guards += mapping.guards.size();
  const uint64_t threads = process_.threads.size();
  uint64_t signals = process_.pending.size();
  for (const image::Thread& thread : process_.threads) signals += thread.pending.size();
  const uint64_t max_ops = metadata_.runs.size() * 2 + process_.mappings.size() * 14 +
                           threads * 160 + process_.descriptors.size() * 4 +
                           process_.patches.size() + snapshot_.objects.size() * 16 + locks +
                           guards + process_.memory_policies.size() + messages +
                           process_.posix_timers.size() * 2 + signals + 1024;
  const uint64_t data = frame_bytes + patch_bytes + threads * 65536 +
                        process_.mappings.size() * 512 + process_.descriptors.size() * 4200 +
                        process_.auxv.size() + snapshot_.objects.size() * 512 +
                        process_.memory_policies.size() * 256 + locks * sizeof(struct flock) +
                        message_bytes + process_.posix_timers.size() * sizeof(plan::Timer) +
                        signals * sizeof(image::PendingSignal) + (1u << 20);
  hole_.plan_size = round_up(kPageSize + max_ops * sizeof(plan::Op) + data);
  hole_.text_size = round_up(stub_image().size());
  hole_.stacks_size = (threads + 1) * plan::kStackSize;  // one for processes of its own
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
  if (held_.line() >= 0) helpers_.hand(held_.line());
  first_of_image_ = helpers_.base + static_cast<int>(helpers_.sources.size());
  memory_ =
      std::make_unique<MemoryPlan>(metadata_, std::move(mappings), frames_, *files_, *segments_);
  policies_->add_of_leader(*plan_);
  memory_->add_mappings(*plan_, handed_);
  policies_->add_of_memory(*plan_);
  memory_->add_stream(*plan_, handed_);
  for (const char* part : {"memory", "process"}) {
    plan_->op(plan::OpKind::await_plan, {}, fmt::format("wait for the plan of the {}", part));
  }
  open_files_->hand(handed_);
  for (const auto& [fd, seals] : files_->seals()) handed_(fd);
  for (const FinalMode& file : files_->final_modes()) handed_(file.fd);
  if (files_->executable_writer() >= 0) handed_(files_->executable_writer());
  if (files_->executable() >= 0) handed_(files_->executable());
  if (removed_cwd_) handed_(removed_cwd_.get());
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

void Restore::State::expect_vdso() {
  std::vector<Range> vdso;  // several where a part of it has another protection
  for (const image::Mapping& mapping : process_.mappings) {
    if (mapping.kind == image::Mapping::Kind::vdso) vdso.push_back(mapping.range);
  }
  uint64_t offset = 0;
  for (const image::DataRun& run : metadata_.runs) {
    for (const Range& part : vdso) {
      if (run.target != image::DataRun::Target::memory || !part.contains(run.range)) continue;
      vdso_runs_.push_back({offset, run.range.size(), run.range.start - part.start});
      vdso_carried_.resize(part.size());
    }
    offset += image::padded_size(run);
  }
}

}  // namespace rfork::loader
