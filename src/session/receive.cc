#include "session/receive.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "image/format.h"
#include "image/host.h"
#include "loader/remade_connections.h"
#include "loader/restore.h"
#include "loader/sysv_segments.h"
#include "session/attend_child.h"
#include "session/file_check.h"
#include "session/image_input.h"
#include "session/image_sources.h"
#include "session/messages.h"
#include "session/open_ends.h"
#include "session/reading.h"
#include "session/socket_check.h"
#include "session/user_policy.h"

namespace rfork::session {

namespace {

using net::FrameType;

/// One restore on its way; each member function is a pass of receive().
class Reception {
 public:
  Reception(WorkerContext& worker, const net::Frame& offer);

  void judge();
  /// Of a check.
  void say_what_judge_finds();
  void say_what_the_loader_finds();
  bool goes_on() const { return user_chosen_; }
  void announce();
  void answer();
  void take_metadata();
  void prepare();
  void take_pages();
  void take_trailer();
  void stand_ready();
  void wait_for_go();
  void let_go();
  void attend();

 private:
  std::vector<Reason> find_reasons();
  void try_connections(std::vector<Reason>& reasons);
  void make_restore();
  void make_relays(std::map<uint32_t, int>& of_child);
  std::string words_of(uint32_t description) const;
  std::vector<std::string> differences() const;
  void say(FrameType type, std::span<const std::byte> body, std::string_view what);

  WorkerContext& worker_;
  std::string move_id_;
  Offer offer_;
  ChosenUser user_;
  bool user_chosen_ = false;
  PresentFiles files_;
  std::string child_id_;
  UniqueFd log_;
  std::optional<SpooledImage> spooled_;
  std::optional<ImageInput> input_;
  image::Metadata metadata_;
  std::optional<image::Verifier> verifier_;
  /// What the offer's connections to elsewhere would be: silent from the offer on.
  std::vector<image::Socket> sockets_to_remake_;
  std::optional<loader::RemadeConnections> tried_;
  std::optional<loader::Restore> restore_;
  pid_t pid_ = 0;
  UniqueFd pidfd_;
  std::vector<RelayEnd> relays_;
  std::vector<std::string> relay_differences_;
  std::vector<UniqueFd> ends_of_child_;
  OpenEnds sockets_of_child_;
};

Reception::Reception(WorkerContext& worker, const net::Frame& offer) : worker_(worker) {
  auto message = decode<OfferMessage>(offer.body);
  if (!is_move_id(message.move_id)) {
    throw Refusal(Failure::connection_lost, "OFFER is malformed: move_id: no id");
  }
  move_id_ = std::move(message.move_id);
  offer_ = std::move(message.offer);
}

void Reception::say(FrameType type, std::span<const std::byte> body, std::string_view what) {
  worker_.link.write(type, body, {worker_.options.deadlines.progress, what});
}

/// With this process's own rights: the child takes its user's when they are made.
void check_segments(const Offer& offer, uint32_t uid, bool same_boot,
                    std::vector<Reason>& reasons) {
  const loader::SegmentOutlook outlook =
      loader::look_for_segments(offer.segments, uid, offer.move && same_boot, false);
  reasons.insert(reasons.end(), outlook.reasons.begin(), outlook.reasons.end());
}

/// Can it go on here, and may it? All that is known to be against it, at once.
std::vector<Reason> Reception::find_reasons() {
  const image::Host here = image::this_host();
  std::vector<Reason> reasons =
      image::misfits(offer_.needs, here, {.ignore_cpu = offer_.ignore_cpu});
  try {
    user_ = choose_user(offer_, worker_.options.users);
    user_chosen_ = true;
    if (offer_.spooled) spooled_.emplace(worker_.options.spool, move_id_, user_);
    const bool same_boot = here.boot_id == offer_.needs.host.boot_id;
    check_segments(offer_, user_.uid, same_boot, reasons);
    {
      const ActingAs acting(user_);
      files_ = check_files(offer_, same_boot, reasons);
      sockets_to_remake_ = check_sockets(offer_, same_boot, reasons);
    }
    try_connections(reasons);
  } catch (const Refusal& refusal) {
    reasons.insert(reasons.end(), refusal.reasons().begin(), refusal.reasons().end());
  }
  return reasons;
}

/// With this process's own rights, which the child's user may not have: who may not be root here
/// may not claim any address either.
void Reception::try_connections(std::vector<Reason>& reasons) {
  if (sockets_to_remake_.empty()) return;
  const UserPolicy& users = worker_.options.users;
  if (::geteuid() == 0 && !users.allow_root && !users.allow_all) {
    reasons.push_back(
        {"TCP connections whose address moves there can't be kept: rforkd does for "
         "nobody what only root may",
         "start it with --allow-root, or leave --keep-tcp out"});
    return;
  }
  loader::Findings findings;
  tried_.emplace(sockets_to_remake_);
  tried_->make(findings);
  tried_->close();
  reasons.insert(reasons.end(), findings.reasons.begin(), findings.reasons.end());
}

void Reception::judge() {
  std::vector<Reason> reasons = find_reasons();
  if (!reasons.empty()) throw Refusal(Failure::destination_refused, std::move(reasons));
}

/// What is against it already doesn't keep the loader from finding more.
void Reception::say_what_judge_finds() {
  Judgement judgement;
  judgement.reasons = find_reasons();
  judgement.warnings = user_.warnings;
  judgement.present_paths = files_.paths;
  judgement.goes_on = user_chosen_;
  judgement.remakes_connections = !sockets_to_remake_.empty();
  if (!judgement.reasons.empty()) offer_.ignore_cpu = offer_.overwrite_files = true;
  spooled_.reset();  // the metadata comes through the connection
  say(FrameType::judgement, encode(judgement), "the judgement to be taken");
}

/// What it makes or opens goes with this object.
void Reception::say_what_the_loader_finds() {
  take_metadata();
  input_->finish();
  make_restore();
  const loader::Restore::PidOutlook pid = restore_->pid_outlook();
  Judgement judgement;
  judgement.warnings = differences();
  judgement.pid_kept = pid.kept;
  judgement.pid_namespace = pid.in_namespace;
  say(FrameType::judgement, encode(judgement), "the judgement to be taken");
}

/// From here on the daemon knows of it: it can be asked for, aborted, and has a log.
void Reception::announce() {
  constexpr size_t kMaxName = 256;  // of what only people read
  ChildInfo info;
  info.move_id = move_id_;
  info.name = offer_.name.substr(0, kMaxName);
  info.user = user_.name.substr(0, kMaxName);
  info.origin = offer_.needs.host.name.substr(0, kMaxName);
  info.origin_pid = offer_.pid;
  info.moved = offer_.move;
  info.since_ns = clock_ns(CLOCK_REALTIME);
  Packet packet =
      worker_.line.ask(PacketType::announce, encode(Announcement{info}), PacketType::registered);
  child_id_ = decode<ChildInfo>(packet.body).id;
  log_ = std::move(packet.descriptor);
  if (spooled_) spooled_->adopt();
  // The child may open its own /dev/stdout again.
  if (log_ && user_.change && ::fchown(log_.get(), user_.uid, user_.gid) != 0) {
    throw_errno("fchown", "the log");
  }
  spdlog::info("child {}: {} of {} ({} pid {}), a {}, move {}", child_id_, visible(info.name),
               visible(info.user), visible(info.origin), info.origin_pid,
               offer_.move ? "move" : "copy", move_id_);
}

void Reception::answer() {
  say(FrameType::answer, encode(Answer{files_.paths, user_.warnings, !sockets_to_remake_.empty()}),
      "the answer to be taken");
}

void Reception::take_metadata() {
  constexpr size_t kStep = 1u << 20;  // a size alone must not cost memory
  Bytes bytes(image::kPrefixSize);
  input_.emplace(spooled_ ? image_in_spool(worker_, *spooled_) : image_in_frames(worker_));
  const size_t prefix = input_->fill_until_end(bytes);
  const uint64_t size = image::metadata_size(std::span(bytes).first(prefix));
  while (bytes.size() < size) {
    const size_t have = bytes.size();
    bytes.resize(have + std::min<uint64_t>(kStep, size - have));
    input_->fill(std::span(bytes).subspan(have), size);
  }
  metadata_ = image::decode_metadata(std::span(bytes).first(size));
}

/// The loader looks at everything once more, now with the whole image.
void Reception::make_restore() {
  loader::Options options;
  options.pid_mode = offer_.pid_mode;
  options.ignore_cpu = offer_.ignore_cpu;
  options.overwrite_files = offer_.overwrite_files;
  options.changed_files = offer_.changed_files;
  options.any_address = offer_.any_address;
  options.original_waits = offer_.move;
  options.stdio_output = options.stdio_error = log_.get();
  // Who may be root there may have root's groups and capabilities of the image too; anybody else
  // gets what this host gives that user.
  if (user_.change && user_.uid == 0) options.as_image_user = true;
  if (user_.change && user_.uid != 0) options.user = loader::named_user(user_.name);
  make_relays(options.relays);
  options.agreed_files = files_.by_id(metadata_.snapshot.files);
  verifier_.emplace(metadata_);
  options.remake_connections = !sockets_to_remake_.empty();
  restore_.emplace(metadata_, options);
  tried_.reset();  // those of the restore are silent by themselves
}

/// Makes the child-to-be.
void Reception::prepare() {
  make_restore();
  restore_->start();
  ends_of_child_.clear();
}

/// What is relayed has its ends here: the child's, and ours.
void Reception::make_relays(std::map<uint32_t, int>& of_child) {
  if (!offer_.attended) return;
  for (const image::Description& description : metadata_.snapshot.descriptions) {
    if (description.kind != image::Description::Kind::relay) continue;
    const auto first = of_child.find(description.other);
    if (first != of_child.end()) {
      ends_of_child_.push_back(open_again(description, first->second));
      of_child[description.id] = ends_of_child_.back().get();
      continue;
    }
    RelayPair pair = make_relay_pair(description, words_of(description.id));
    std::ranges::move(pair.differences, std::back_inserter(relay_differences_));
    if (pair.ours.type == image::Description::RelayType::socket) {
      sockets_of_child_.watch(description.id, pair.of_child.get());
    }
    relays_.push_back(std::move(pair.ours));
    of_child[description.id] = pair.of_child.get();
    ends_of_child_.push_back(std::move(pair.of_child));
  }
}

std::string Reception::words_of(uint32_t description) const {
  const auto& descriptors = metadata_.snapshot.processes.at(0).descriptors;
  const auto found = std::ranges::find(descriptors, description, &image::Descriptor::description);
  return found == descriptors.end() ? "a socket" : fmt::format("descriptor {}", found->fd);
}

/// What is not as it was at the origin.
std::vector<std::string> Reception::differences() const {
  std::vector<std::string> all = relay_differences_;
  all.insert(all.end(), restore_->warnings().begin(), restore_->warnings().end());
  return all;
}

void Reception::take_pages() {
  for (uint64_t left = metadata_.data_size; left > 0;) {
    std::span<std::byte> slot = restore_->next_slot();
    slot = slot.first(std::min<uint64_t>(slot.size(), left));
    input_->fill(slot, metadata_.total_size);
    verifier_->absorb(slot);
    restore_->submit(slot.size());
    left -= slot.size();
  }
}

/// Nothing of the image has run yet; nothing will unless this says that it is whole.
void Reception::take_trailer() {
  Bytes trailer(metadata_.trailer_size);
  input_->fill(trailer, metadata_.total_size);
  verifier_->check(trailer);
  input_->finish();
  worker_.line.tell(PacketType::received);
}

void Reception::stand_ready() {
  pid_ = restore_->wait_ready();
  pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!pidfd_) throw_errno("pidfd_open", std::to_string(pid_));
  if (restore_->end_pipe() >= 0) {
    worker_.line.tell(PacketType::end_pipe, {}, restore_->end_pipe());
  }
  const Standing standing{pid_, restore_->wait_pid(), restore_->inner_pid()};
  worker_.line.ask(PacketType::standing, encode(standing), PacketType::done, pidfd_.get());
  say(FrameType::ready, encode(Ready{pid_, differences()}), "READY to be taken");
}

void Reception::wait_for_go() {
  (void)read_expected(worker_.link, {FrameType::go}, {worker_.options.deadlines.go, "GO"});
}

/// The point of no return is the daemon's yes: see children.h.
void Reception::let_go() {
  worker_.line.ask(PacketType::may_go, {}, PacketType::done);
  restore_->go();
  // It runs. No failure from here on may look like a refusal.
  try {
    worker_.line.tell(PacketType::let_go);
  } catch (const std::exception& error) {
    spdlog::warn("child {} runs unsupervised: {}", child_id_, error.what());
  }
  spdlog::info("child {} runs: pid {}, {} of image", child_id_, pid_,
               human_bytes(metadata_.total_size));
  try {
    say(FrameType::running, encode(Running{child_id_, pid_}), "RUNNING to be taken");
  } catch (const std::exception& error) {
    spdlog::warn("child {} runs, but its client could not be told: {}", child_id_, error.what());
  }
}

void Reception::attend() {
  if (!offer_.attended) return;
  try {
    const AttendedChild child{child_id_,
                              move_id_,
                              std::chrono::seconds(offer_.linger_s),
                              pid_,
                              restore_->wait_pid(),
                              restore_->end_pipe(),
                              std::move(pidfd_),
                              std::move(sockets_of_child_)};
    attend_child(worker_, child, std::move(relays_));
  } catch (const std::exception& error) {
    spdlog::warn("child {} runs unattended: {}", child_id_, error.what());
  }
}

}  // namespace

void answer_check(WorkerContext& worker, const net::Frame& question) {
  Reception reception(worker, question);
  reception.say_what_judge_finds();
  if (reception.goes_on()) reception.say_what_the_loader_finds();
}

void receive(WorkerContext& worker, const net::Frame& offer) {
  Reception reception(worker, offer);
  reception.judge();
  reception.announce();
  reception.answer();
  reception.take_metadata();
  reception.prepare();
  reception.take_pages();
  reception.take_trailer();
  reception.stand_ready();
  reception.wait_for_go();
  reception.let_go();
  reception.attend();
}

}  // namespace rfork::session
