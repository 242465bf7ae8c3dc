// The restore as its caller sees it, and the life of its process. The passes before it are in
// restore_prepare.cc, those after the page data in restore_second_part.cc.
#include "loader/restore.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/io.h"
#include "loader/restore_state.h"

namespace rfork::loader {

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
  request.dump_filter = process_.settings.dump_filter;
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
  open_files_->let_go();
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
  if (!spawned_ || released_) return;
  if (!reaped_) {
    ::kill(spawned_->wait_pid, SIGKILL);
    while (::waitpid(spawned_->wait_pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  if (!place_.ipc_namespace) SysvSegments::remove_made(*plan_);
}

/// Only so that who looks at the child afterwards sees no trace of the restore: nothing depends on
/// it.
void Restore::State::await_leaving() {
  if (process_.stop_signal != 0 || open_files_->waits_for_locks()) return;
  constexpr auto kPatience = std::chrono::seconds(1);  // with many others on the processors
  constexpr auto kLongestPause = std::chrono::microseconds(1000);
  auto pause = std::chrono::microseconds(20);
  const auto until = std::chrono::steady_clock::now() + kPatience;
  const volatile uint32_t& leaving = plan_->header().leaving;
  while (leaving != 0 && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 5 / 4, kLongestPause);
  }
}

/// The child waits once more, for what only this process may do. If it dies here it has died while
/// it ran.
void Restore::State::hand_over_connections() {
  try {
    channel_->await(plan::MessageKind::ready, "the child to take its connections");
    remade_.release();
    plan::Message message{};
    message.kind = plan::MessageKind::go;
    channel_->send(message);
    channel_->await(plan::MessageKind::running, "the child to run");
  } catch (const std::exception&) {
    // Its end is reported as any child's.
  }
}

// --- the interface ---

Restore::Restore(const image::Metadata& metadata, const Options& options)
    : state_(std::make_unique<State>(metadata, options)) {}

Restore::~Restore() = default;

const std::vector<std::string>& Restore::warnings() const {
  return state_->findings_.warnings;
}

Restore::PidOutlook Restore::pid_outlook() const {
  const Place& place = state_->places_.front();
  return {place.keep_ids, place.keep_ids && place.pid_namespace};
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
  const pid_t child = state_->channel_->peer_pid();
  state_->open_files_->enter_mounts(child);
  {
    const ActAs as_user(state_->user_);
    state_->files_->keep();
    state_->open_files_->keep();
    state_->open_files_->begin_queues(child);
  }
  const bool remade = state_->remade_.any();
  if (remade) state_->remade_.queue_sent();
  plan::Message message{};
  message.kind = plan::MessageKind::go;
  state_->channel_->send(message);
  state_->channel_->await(plan::MessageKind::running, "the child to run");
  state_->released_ = true;
  if (remade) state_->hand_over_connections();
  state_->held_.let_go();
  state_->await_leaving();
}

pid_t Restore::wait_pid() const {
  return state_->spawned_ ? state_->spawned_->wait_pid : 0;
}

int Restore::end_pipe() const {
  return state_->spawned_ ? state_->spawned_->end_pipe.get() : -1;
}

ChildEnd Restore::child_end(int wait_status) {
  return loader::child_end(wait_status, end_pipe());
}

ChildEnd child_end(int wait_status, int end_pipe) {
  // An init gives its child's own status through a pipe, for an exit code can't tell 137 from
  // SIGKILL.
  if (end_pipe >= 0) {
    int status = 0;
    while (::read(end_pipe, &status, sizeof status) == sizeof status) wait_status = status;
  }
  if (WIFSIGNALED(wait_status)) return {true, WTERMSIG(wait_status), WCOREDUMP(wait_status) != 0};
  return {false, WEXITSTATUS(wait_status), false};
}

void end_as(const ChildEnd& end) {
  if (end.signalled) {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, end.code);
    ::signal(end.code, SIG_DFL);
    ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
    ::raise(end.code);
  }
  ::_exit(end.signalled ? 128 + end.code : end.code);
}

pid_t Restore::inner_pid() const {
  return state_->place_.keep_ids ? state_->process_.pid : state_->channel_->peer_pid();
}

}  // namespace rfork::loader
