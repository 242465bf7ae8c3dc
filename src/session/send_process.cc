#include "session/send_process.h"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <future>
#include <optional>
#include <set>
#include <thread>

#include "base/clock.h"
#include "image/format.h"
#include "net/tls.h"
#include "session/attend_ghost.h"
#include "session/commit_keeper.h"
#include "session/image_output.h"
#include "session/keep_commit.h"
#include "session/local_addresses.h"
#include "session/progress.h"
#include "tracer/connection_silence.h"
#include "tracer/diag_socket.h"

namespace rfork::session {

namespace {

constexpr size_t kChunk = 256u << 10;
constexpr auto kAskFor = std::chrono::seconds(20);
constexpr auto kAskEvery = std::chrono::milliseconds(500);

std::string text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

NamedSocket named_socket(const tracer::OpenSocket& open) {
  NamedSocket named;
  const image::Socket& socket = open.socket;
  named.fd = open.fd;
  named.family = socket.family;
  named.type = socket.type;
  named.protocol = socket.protocol;
  named.name = text_of(socket.name);
  named.peer = text_of(socket.peer);
  named.interface = socket.interface;
  named.has_path = socket.has_path;
  named.listening = socket.listening;
  named.cookie = socket.cookie;
  for (const image::SocketOption& option : socket.options) {
    named.options.push_back(option.name);
    named.values.push_back(text_of(option.value));
  }
  return named;
}

}  // namespace

Offer make_offer(const tracer::Examination& examination, const SendOptions& options) {
  Offer offer;
  offer.move = options.capture.move;
  offer.pid_mode = options.pid_mode;
  offer.ignore_cpu = options.ignore_cpu;
  offer.overwrite_files = options.overwrite_files;
  offer.changed_files = options.changed_files;
  offer.needs = examination.needs;
  offer.pid = examination.tids.front();
  offer.tids = examination.tids;
  offer.name = examination.name;
  offer.uid = examination.euid;
  offer.user = examination.user;
  offer.spooled = !options.spool.empty();
  offer.attended = options.ghost;
  offer.linger_s = options.linger_s;
  offer.resident_bytes = examination.resident_bytes;
  offer.mapped_files = examination.mapped_files;
  offer.open_files = examination.open_files;
  offer.leases = examination.leases;
  offer.any_address = options.any_address;
  for (const tracer::OpenSocket& open : examination.sockets) {
    offer.sockets.push_back(named_socket(open));
  }
  if (!options.capture.drop_attributes) offer.segments = examination.segments;
  return offer;
}

namespace {

uint64_t stream_image(tracer::Capture& capture, ImageOutput& output, const std::string& title) {
  image::Encoder encoder(capture.snapshot(), capture.runs());
  output.write(encoder.metadata());
  Progress progress(title, encoder.total_size());
  Bytes buffer(kChunk);
  while (const size_t size = capture.read(buffer)) {
    const auto data = std::span<const std::byte>(buffer).first(size);
    encoder.absorb(data);
    output.write(data);
    progress.add(size);
  }
  output.write(encoder.trailer());
  output.finish();
  return encoder.total_size();
}

std::string how_to_decide(pid_t pid, const std::string& where, const std::string& move_id) {
  return fmt::format(
      "it can't be known whether the child of {} runs on {}; {} stays stopped. "
      "`rforkctl {} resolve {}` tells: if it runs there, kill -KILL {}, else kill -CONT {}",
      pid, where, pid, where, move_id, pid, pid);
}

// What became of the child when the answer to GO did not come. nullopt: nobody can say.
std::optional<Resolution> ask_again(const Endpoint& endpoint, const std::string& move_id) {
  const auto deadline = std::chrono::steady_clock::now() + kAskFor;
  do {
    try {
      Resolution resolution = resolve(endpoint, move_id);
      if (resolution.state == Resolution::State::unknown) return std::nullopt;
      return resolution;
    } catch (const std::exception&) {
      std::this_thread::sleep_for(kAskEvery);
    }
  } while (std::chrono::steady_clock::now() < deadline && !endpoint.interrupted());
  return std::nullopt;
}

// Lets the child run. When the answer doesn't come, the daemon is asked what became of it: nullopt
// when nobody can say, or nobody waits for that. Throws why it never ran.
std::optional<Running> let_child_go(Destination& there, const Endpoint& endpoint) {
  try {
    return there.go();
  } catch (const std::exception& error) {
    const auto* refusal = dynamic_cast<const Refusal*>(&error);
    if (refusal != nullptr && refusal->failure() == Failure::destination_refused) throw;
    if (refusal != nullptr && refusal->failure() == Failure::interrupted) return std::nullopt;
    const auto resolution = ask_again(endpoint, there.move_id());
    if (!resolution) return std::nullopt;
    if (resolution->state == Resolution::State::aborted) throw;
    return Running{resolution->child_id, resolution->pid};
  }
}

// Where the ghost's last word goes; empty: nowhere.
UniqueFd standard_error_of(pid_t pid) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), STDERR_FILENO, 0)));
}

using LetGo = std::function<std::optional<Running>()>;

// The commit of a move. On return exactly one copy runs, the child; on an exception but in_doubt,
// the original. With a ghost the original's pid stays, attended to by a process of its own.
Running commit_move(tracer::Capture& capture, Destination& there, CommitKeeper& keeper,
                    std::optional<tracer::ConnectionSilence>& silence, const Endpoint& endpoint,
                    pid_t pid, const SendOptions& options, const LetGo& let_go) {
  using Outcome = CommitKeeper::Outcome;
  capture.hold_original();
  keeper.commit_begins(pid, there.move_id());
  std::optional<Running> running;
  try {
    running = let_go();
  } catch (...) {
    capture.release();
    keeper.commit_ends(Outcome::original_goes_on);
    throw;
  }
  // The keeper is to be their last holder: nobody that is forked from here on may have them.
  const bool silent = silence.has_value();
  silence.reset();
  if (silent) (void)capture.take_kept();
  if (!running) {
    capture.leave_stopped();
    keeper.commit_ends(Outcome::in_doubt);
    std::vector<Reason> reasons{{how_to_decide(pid, there.name(), there.move_id()), {}}};
    if (silent) reasons.push_back({silence_advice(keeper.pid()), {}});
    throw Refusal(Failure::in_doubt, std::move(reasons));
  }
  if (!options.ghost) {
    capture.end_original();
    keeper.commit_ends(Outcome::original_ended);
    return *running;
  }
  std::vector<RelayEnd> ends;
  for (auto& [id, fd] : capture.take_relays()) {
    ends.push_back(origin_end(*image::find_id(capture.snapshot().descriptions, id), std::move(fd)));
    // Nobody else can use a terminal whose lines the child's makes.
    const bool terminal = ends.back().type == image::Description::RelayType::terminal;
    if (terminal) ends.back().reads = options.capture.relay_input;
    ends.back().on_demand = options.shares_with_parent && !terminal;
  }
  const UniqueFd messages = standard_error_of(pid);
  const AttendedGhost ghost{.pid = pid,
                            .there = there.name(),
                            .messages = messages.get(),
                            .endpoint = endpoint,
                            .move_id = there.move_id(),
                            .linger = std::chrono::seconds(options.linger_s),
                            .carried = capture.leave_ghost()};
  start_attending(there.link(), ghost, std::move(ends));
  keeper.commit_ends(Outcome::original_ended);
  return *running;
}

Running commit_copy(Destination& there, pid_t pid, const LetGo& let_go) {
  if (const auto running = let_go()) return *running;
  throw Refusal(Failure::connection_lost,
                fmt::format("the connection to {} broke when the copy was about to run; {} goes on",
                            there.name(), pid),
                fmt::format("`rforkctl {} resolve {}` tells whether the copy runs", there.name(),
                            there.move_id()));
}

}  // namespace

namespace {

auto watched_by(CommitKeeper& keeper, pid_t pid) {
  return [&keeper, pid](int netlink, bool stopped, const std::vector<tracer::KeptSocket>& sockets) {
    const UniqueFd addresses = tracer::netlink_socket(pid, NETLINK_ROUTE);
    listen_to_addresses(addresses.get());
    keeper.hold(pid, netlink, addresses.get(), stopped, sockets);
  };
}

/// The addresses that have to move, and who is silent for them until they have.
void note_silence(Sent& sent, const image::Snapshot& snapshot, pid_t keeper) {
  std::set<std::string> addresses;
  for (const image::Description& description : snapshot.descriptions) {
    if (!description.socket || !description.socket->tcp) continue;
    const auto tuple = tcp_tuple(description.socket->name, description.socket->peer);
    if (tuple) addresses.insert(own_address_words(*tuple));
  }
  if (addresses.empty()) return;
  sent.silence_pid = keeper;
  sent.addresses.assign(addresses.begin(), addresses.end());
}

}  // namespace

Sent send_process(pid_t pid, const Endpoint& endpoint, const SendOptions& options) {
  const int64_t started = clock_ns(CLOCK_MONOTONIC);
  Endpoint uninterrupted = endpoint;
  uninterrupted.interrupted = [] { return false; };
  // While a move commits, Ctrl-C must not leave it undecided.
  enum class Phase { preparing, committing, decided } phase = Phase::preparing;
  Endpoint interruptible = endpoint;
  interruptible.interrupted = [&] {
    if (phase == Phase::preparing) return endpoint.interrupted();
    return phase == Phase::committing && options.given_up();
  };

  // OpenSSL takes some milliseconds to look its algorithms up: another processor's. The handshake
  // waits for it.
  std::future<void> prepared;
  if (endpoint.key) {
    prepared = std::async(std::launch::async, [] { net::prepare_tls(net::Role::client); });
  }
  std::optional<tracer::Examination> examined;
  if (!options.process) examined = tracer::examine(pid, options.capture);
  std::optional<CommitKeeper> keeper;
  if (options.capture.move) {
    if (prepared.valid()) prepared.get();  // the keeper is forked: no other thread must be there
    keeper.emplace([&](const std::string& move_id) { return resolve(uninterrupted, move_id); },
                   [&](pid_t original, const std::string& move_id) {
                     return how_to_decide(original, endpoint.address.text(), move_id);
                   });
  }
  Destination there(interruptible);
  options.connected();
  if (options.process) {
    pid = options.process();
    examined = tracer::examine(pid, options.capture);
  }
  const tracer::Examination& examination = *examined;
  std::optional<ImageOutput> output(std::in_place, there, options.spool, examination.euid);
  const Answer answer = there.offer(make_offer(examination, options));

  Sent sent;
  tracer::Options capture_options = options.capture;
  std::optional<tracer::ConnectionSilence> silence;
  if (answer.remakes_connections && keeper && options.capture.keep_tcp) {
    silence.emplace(examination);
    capture_options.silence = &*silence;
    silence->witness = watched_by(*keeper, pid);
  }
  tracer::Capture capture(examination, capture_options, answer.present_paths);
  sent.image_bytes = stream_image(capture, *output, fmt::format("{} → {}", pid, there.name()));
  const Ready ready = there.finish_and_wait_ready();
  output.reset();
  phase = Phase::committing;
  const LetGo let_go = [&] {
    Endpoint asked = endpoint;
    asked.interrupted = options.given_up;
    const auto running = let_child_go(there, asked);
    phase = Phase::decided;
    return running;
  };
  const Running running = options.capture.move ? commit_move(capture, there, *keeper, silence,
                                                             uninterrupted, pid, options, let_go)
                                               : commit_copy(there, pid, let_go);

  if (answer.remakes_connections) note_silence(sent, capture.snapshot(), keeper->pid());
  sent.pid = running.pid;
  sent.child_id = running.child_id;
  sent.destination = there.name();
  sent.spool = options.spool;
  sent.wire_bytes = there.wire_bytes();
  sent.paused_ns = capture.paused().count();
  sent.total_ns = clock_ns(CLOCK_MONOTONIC) - started;
  sent.warnings = examination.changes;
  sent.warnings.insert(sent.warnings.end(), answer.warnings.begin(), answer.warnings.end());
  sent.warnings.insert(sent.warnings.end(), ready.warnings.begin(), ready.warnings.end());
  sent.warnings.insert(sent.warnings.end(), capture.losses().begin(), capture.losses().end());
  return sent;
}

}  // namespace rfork::session
