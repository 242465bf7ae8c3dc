// The second part of the plan, written when all page data has passed: what needs the data in place,
// or depends on what was in it (the vDSO) or on where the child was made (its ids).
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "loader/posix_timers.h"
#include "loader/restore_state.h"
#include "loader/seccomp_filters.h"

namespace rfork::loader {

void Restore::State::add_frames() {
  using plan::OpKind;
  if (!frames_.leftover.empty()) {
    plan_->call(SYS_mmap,
                {frames_.leftover.start, frames_.leftover.size(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, UINT64_MAX, 0},
                "mmap of the frames that stay", static_cast<int64_t>(frames_.leftover.start));
  }
  for (size_t i = 0; i < frames_.threads.size(); ++i) {
    const image::SignalFrame& frame = frames_.threads[i].frame;
    plan_->op(OpKind::copy, {frame.address, plan_->data(frame.bytes), frame.bytes.size()},
              fmt::format("write the signal frame of thread {}", process_.threads[i].tid));
  }
  if (frames_.code_stays) {
    const Bytes code = exit_code();
    plan_->op(OpKind::copy, {frames_.exit_code, plan_->data(code), code.size()},
              "write the exit code");
  }
  bool has_code = frames_.code_stays;
  for (size_t i = 0; i < frames_.threads.size(); ++i) {
    const uint64_t place = frames_.threads[i].exit_code;
    if (place == 0) continue;
    has_code = true;
    const Bytes code = seccomp_exit_code(process_, process_.threads[i], place);
    plan_->op(OpKind::copy, {place, plan_->data(code), code.size()},
              fmt::format("write the seccomp filters of thread {}", process_.threads[i].tid));
  }
  if (!frames_.leftover.empty()) {
    plan_->call(SYS_mprotect,
                {frames_.leftover.start, frames_.leftover.size(),
                 static_cast<uint64_t>(has_code ? PROT_READ | PROT_EXEC : PROT_READ)},
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

  attributes_.parent_stays = parent_stays(place_, options_);
  const std::vector<int32_t> tids(process_.threads.size());
  const ThreadPlanInput input{process_,
                              frames_,
                              hole_,
                              user_,
                              attributes_,
                              *policies_,
                              place_.keep_ids,
                              spawned_->drop_capabilities,
                              exit_address,
                              plan_->data(std::as_bytes(std::span(tids))),
                              [&](int32_t tid) { open_files_->add_opened_by_child(*plan_, tid); }};
  const std::vector<OpRange> bodies = add_thread_bodies(*plan_, input);
  const ExeLink exe = exe_link();
  const uint64_t exe_operation = add_exe_operation(*plan_, process_, exe);
  const uint64_t leader = plan_->next();
  for (const FinalMode& file : files_->final_modes()) {
    plan_->call(SYS_fchmod, {static_cast<uint64_t>(handed_(file.fd)), file.mode},
                "set the mode of a file");
    if (!file.mtime_ns) continue;
    constexpr int64_t kSecond = 1'000'000'000;
    timespec times[2]{{0, UTIME_OMIT}, {*file.mtime_ns / kSecond, *file.mtime_ns % kSecond}};
    if (times[1].tv_nsec < 0) times[1].tv_nsec += kSecond, --times[1].tv_sec;
    plan_->call(SYS_utimensat, {static_cast<uint64_t>(handed_(file.fd)), 0, plan_->value(times), 0},
                "set the time of a file");
  }
  // No file that is open for writing can be the program: execve(2), ETXTBSY.
  if (const int writer = files_->executable_writer(); writer >= 0) {
    plan_->call(SYS_close, {static_cast<uint64_t>(handed_(writer))}, "close the program's file");
  }
  add_signal_actions(*plan_, process_);
  add_memory_layout(*plan_, process_, settings_, exe, exe_operation);
  add_shared_settings(*plan_, process_, settings_);
  open_files_->add_handed(*plan_, handed_);
  open_files_->add_controlling_terminal(*plan_);
  for (const auto& [fd, seals] : files_->seals()) {
    plan_->call(SYS_fcntl, {static_cast<uint64_t>(handed_(fd)), F_ADD_SEALS, seals},
                "seal a memfd");
  }
  add_thread_starts(*plan_, input, bodies);
  add_thread_state(*plan_, input, 0);
  add_last_steps(input);

  files_->let_go();
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

ExeLink Restore::State::exe_link() {
  ExeLink exe;
  if (files_->executable() >= 0) exe.fd = handed_(files_->executable());
  exe.allowed = place_.user_namespace || has_capability(CAP_SYS_ADMIN) ||
                has_capability(CAP_CHECKPOINT_RESTORE);
  exe.stack_end = hole_.stacks + hole_.stacks_size;
  return exe;
}

void Restore::State::add_last_steps(const ThreadPlanInput& input) {
  using plan::OpKind;
  plan_->op(OpKind::gather_threads, {process_.threads.size() - 1}, "wait for the threads");
  // Timers and queued signals count against RLIMIT_SIGPENDING.
  const std::vector<uint64_t> timers =
      make_posix_timers(*plan_, process_, input.tids, !attributes_.lenient || attributes_.can_wake);
  add_pending_signals(*plan_, process_);
  add_pending(*plan_, process_, process_.threads[0]);
  add_limits(*plan_, settings_);
  add_credentials(*plan_, input, 0);
  if (removed_cwd_) {
    plan_->call(SYS_fchdir, {static_cast<uint64_t>(handed_(removed_cwd_.get()))},
                "fchdir to the removed working directory");
  } else {
    add_working_directory(*plan_, settings_);
  }
  open_files_->add_opened_by_child(*plan_, 0);
  open_files_->add_pidfds(*plan_);
  open_files_->add_messages(*plan_);
  open_files_->add_watches(*plan_);
  open_files_->add_owners(*plan_, input.tids);
  add_descriptor_limit(*plan_, settings_);
  add_dumpable(*plan_, process_);
  add_process_settings(*plan_, attributes_, process_.settings);
  // A POSIX lock is lost when any descriptor of its file is closed.
  plan_->call(SYS_close_range, {static_cast<uint64_t>(first_of_image_), UINT32_MAX, 0},
              "close the restore's descriptors");
  open_files_->add_locks(*plan_, OpenFiles::Locks::free);
  plan_->op(OpKind::ready, {}, "wait to be let go");
  add_timers(*plan_, process_);
  start_posix_timers(*plan_, process_, timers);
  open_files_->add_timers(*plan_);
  // As late as its descriptor is there: what fails before leaves the connections with the holder.
  if (held_.line() >= 0) held_.add_taking(*plan_, helpers_.base + kHolder);
  if (remade_.any()) plan_->op(OpKind::ready, {}, "wait for the connections");
  plan_->call(SYS_close_range, {static_cast<uint64_t>(helpers_.base), UINT32_MAX, 0},
              "close the restore's own descriptors");
  open_files_->add_locks(*plan_, OpenFiles::Locks::of_original);
  if (process_.stop_signal != 0) {
    const uint64_t index = plan_->call(SYS_kill, {0, SIGSTOP}, "stop");
    plan_->at(index).own_pid = 1u << 0;
  }
  plan_->op(OpKind::open_gate, {}, "open the gate");
  add_leave(*plan_, input, 0);
}

}  // namespace rfork::loader
