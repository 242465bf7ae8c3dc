#include "session/check_process.h"

#include <sys/stat.h>

#include <algorithm>

#include "base/output_file.h"
#include "image/format.h"
#include "session/image_output.h"
#include "tracer/connection_silence.h"

namespace rfork::session {

namespace {

/// Each member function is a step of the real run, in its order.
class Check {
 public:
  Check(pid_t pid, const CheckOptions& options) : options_(options) {
    report_.pid = pid;
    report_.ghost = options.send.ghost;
    options_.send.capture.glance = true;
  }

  bool examine();
  void find_losses();
  void try_output();
  void ask_destination();
  void look();
  void judge_image();
  CheckReport take() { return std::move(report_); }

 private:
  template <typename Step>
  bool attempt(Step step);
  void note(Failure failure, const std::vector<Reason>& reasons);

  CheckOptions options_;
  CheckReport report_;
  tracer::Examination examination_;
  std::optional<Destination> there_;
  std::optional<tracer::Capture> capture_;
  std::optional<tracer::ConnectionSilence> silence_;
  bool judged_ = false, judges_image_ = false, remakes_ = false;
};

/// The code is the first failure's; a later step may repeat what an earlier one said.
void Check::note(Failure failure, const std::vector<Reason>& reasons) {
  if (reasons.empty()) return;
  if (!report_.refusal) report_.refusal = Outcome{failure, {}};
  std::vector<Reason>& known = report_.refusal->reasons;
  for (const Reason& reason : reasons) {
    const auto same = [&](const Reason& other) { return other.what == reason.what; };
    if (std::ranges::none_of(known, same)) known.push_back(reason);
  }
}

template <typename Step>
bool Check::attempt(Step step) {
  try {
    step();
    return true;
  } catch (const std::exception& error) {
    const Outcome outcome = outcome_of(error);
    if (outcome.failure == Failure::interrupted) throw;
    note(outcome.failure, outcome.reasons);
    return false;
  }
}

bool Check::examine() {
  return attempt([&] {
    examination_ = tracer::look_at(report_.pid, options_.send.capture);
    note(Failure::cannot_carry, examination_.obstacles);
    report_.snapshot = tracer::sketch_of(examination_);
    report_.warnings = examination_.changes;
    report_.resident_bytes = examination_.resident_bytes;
    report_.known = true;
  });
}

/// What is in the way without the options that accept a loss, and not with them.
void Check::find_losses() {
  const tracer::Options& wanted = options_.send.capture;
  if (!wanted.accepts_losses()) return;
  tracer::Options strict;
  strict.move = wanted.move, strict.thin = wanted.thin;
  strict.relay = wanted.relay, strict.relay_input = wanted.relay_input;
  strict.interrupted = wanted.interrupted;
  attempt([&] {
    for (const Reason& reason : tracer::look_at(report_.pid, strict).obstacles) {
      const auto same = [&](const Reason& other) { return other.what == reason.what; };
      if (std::ranges::none_of(examination_.obstacles, same)) report_.losses.push_back(reason.what);
    }
  });
  for (const int fd : wanted.drop_fds) {
    const std::string path = "/proc/" + std::to_string(report_.pid) + "/fd/" + std::to_string(fd);
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0) report_.dropped_fds.insert(fd);
  }
}

void Check::try_output() {
  struct stat status {};
  const std::string& path = options_.output;
  // To open a pipe or a device may already be an event to somebody.
  const bool there = ::stat(path.c_str(), &status) == 0;
  if (path.empty() || path == "-" ||
      (there && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)))
    return;
  attempt([&] { const OutputFile file(path, 0600); });
}

void Check::ask_destination() {
  if (!options_.endpoint) return;
  attempt([&] {
    there_.emplace(*options_.endpoint);
    report_.destination = there_->name();
    const ImageOutput output(*there_, options_.send.spool, examination_.euid);
    const Judgement judgement = there_->check(make_offer(examination_, options_.send));
    note(Failure::destination_refused, judgement.reasons);
    report_.warnings.insert(report_.warnings.end(), judgement.warnings.begin(),
                            judgement.warnings.end());
    report_.present = judgement.present_paths;
    judges_image_ = judgement.goes_on;
    remakes_ = judgement.remakes_connections && options_.send.capture.keep_tcp;
    judged_ = true;
  });
}

/// Only what nothing here stands in the way of is stopped: the real run would not touch it either.
void Check::look() {
  if (!examination_.obstacles.empty()) return;
  // When no destination has been heard nobody knows which files it lacks.
  if (!judged_ && options_.output.empty()) {
    for (const image::File& file : report_.snapshot.files) report_.present.insert(file.path);
  }
  if (remakes_ && !attempt([&] { silence_.emplace(examination_); })) return;
  if (silence_) options_.send.capture.silence = &*silence_;
  attempt([&] {
    capture_.emplace(examination_, options_.send.capture, report_.present);
    report_.snapshot = capture_->snapshot();
    report_.stopped = true;
    report_.paused_ns = capture_->paused().count();
    report_.image_bytes = image::Encoder(capture_->snapshot(), capture_->runs()).total_size();
    for (const image::DataRun& run : capture_->runs()) {
      if (run.target == image::DataRun::Target::memory) report_.memory_bytes += run.range.size();
    }
  });
}

void Check::judge_image() {
  if (!judges_image_ || !report_.stopped) return;
  attempt([&] {
    image::Encoder encoder(capture_->snapshot(), capture_->runs());
    there_->send(encoder.metadata());
    const Judgement judgement = there_->judge_image();
    note(Failure::destination_refused, judgement.reasons);
    report_.warnings.insert(report_.warnings.end(), judgement.warnings.begin(),
                            judgement.warnings.end());
    report_.pid_known = true;
    report_.pid_kept = judgement.pid_kept;
    report_.pid_namespace = judgement.pid_namespace;
  });
}

}  // namespace

CheckReport check_process(pid_t pid, const CheckOptions& options) {
  Check check(pid, options);
  if (!check.examine()) return check.take();
  check.find_losses();
  check.try_output();
  check.ask_destination();
  check.look();
  check.judge_image();
  return check.take();
}

}  // namespace rfork::session
