#include "session/questions.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <optional>
#include <thread>

#include "base/error.h"
#include "session/messages.h"

namespace rfork::session {

namespace {

using net::FrameType;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kLook{200};  ///< between two looks at something that may have changed

void reply(WorkerContext& worker, FrameType type, std::span<const std::byte> body = {}) {
  worker.link.write(type, body, {worker.options.deadlines.progress, "the answer to be taken"});
}

/// Says "still here" when it is time.
class Keepalive {
 public:
  explicit Keepalive(WorkerContext& worker) : worker_(worker) {}
  void tick() {
    if (Clock::now() - last_ < worker_.options.deadlines.keepalive) return;
    reply(worker_, FrameType::waiting);
    last_ = Clock::now();
  }

 private:
  WorkerContext& worker_;
  Clock::time_point last_ = Clock::now();
};

/// The answer to what was told, whenever it comes; nullopt when the client left.
std::optional<Packet> hear_patiently(WorkerContext& worker, PacketType expected) {
  Keepalive keepalive(worker);
  for (;;) {
    if (auto packet = worker.line.hear(expected, kLook)) return packet;
    if (worker.link.input_waiting()) return std::nullopt;
    keepalive.tick();
  }
}

/// Sends what a log has from `offset` on; gives where it ended.
off_t send_log(WorkerContext& worker, int log, off_t offset) {
  Bytes buffer(64u << 10);
  for (;;) {
    const ssize_t n = ::pread(log, buffer.data(), buffer.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("read", "the log");
    if (n == 0) return offset;
    reply(worker, FrameType::log, std::span(buffer).first(static_cast<size_t>(n)));
    offset += n;
  }
}

bool has_ended(WorkerContext& worker, const std::string& id) {
  const Packet packet =
      worker.line.ask(PacketType::look, encode(ChildQuestion{id}), PacketType::child);
  return decode<ChildInfo>(packet.body).state == ChildState::ended;
}

}  // namespace

void answer_resolve(WorkerContext& worker, const net::Frame& request) {
  const auto question = decode<MoveQuestion>(request.body);
  if (!is_move_id(question.move_id)) {
    throw Refusal(Failure::destination_refused, "that is no move's id",
                  "it has 32 hexadecimal digits");
  }
  const Packet packet =
      worker.line.ask(PacketType::resolve, encode(question), PacketType::resolution);
  reply(worker, FrameType::resolution, packet.body);
}

void answer_list(WorkerContext& worker) {
  ListQuestion question;
  for (bool more = true; more;) {
    const Packet packet = worker.line.ask(PacketType::list, encode(question), PacketType::children);
    const auto part = decode<ListPart>(packet.body);
    for (const ChildInfo& child : part.children) reply(worker, FrameType::child, encode(child));
    more = part.more && !part.children.empty();
    if (more) question.after = std::stoull(part.children.back().id);
  }
  reply(worker, FrameType::done);
}

void answer_logs(WorkerContext& worker, const net::Frame& request) {
  const auto question = decode<LogsQuestion>(request.body);
  const Packet packet =
      worker.line.ask(PacketType::logs, encode(ChildQuestion{question.id}), PacketType::child);
  Keepalive keepalive(worker);
  constexpr uint64_t kMost = std::numeric_limits<off_t>::max();
  off_t offset = static_cast<off_t>(std::min(question.offset, kMost));
  for (bool last = !question.follow;;) {
    // Asked before the log is read: what a child wrote before its end is then sent.
    last = last || has_ended(worker, question.id);
    offset = send_log(worker, packet.descriptor.get(), offset);
    if (last) break;
    if (worker.link.input_waiting()) return;  // the client left
    keepalive.tick();
    std::this_thread::sleep_for(kLook);
  }
  reply(worker, FrameType::done);
}

void answer_kill(WorkerContext& worker, const net::Frame& request) {
  const auto order = decode<KillOrder>(request.body);
  worker.line.ask(PacketType::kill, encode(order), PacketType::done);
  reply(worker, FrameType::done);
}

void answer_wait(WorkerContext& worker, const net::Frame& request) {
  worker.line.tell(PacketType::wait, encode(decode<ChildQuestion>(request.body)));
  if (const auto packet = hear_patiently(worker, PacketType::child)) {
    reply(worker, FrameType::child, packet->body);
  }
}

void answer_events(WorkerContext& worker, const net::Frame& request) {
  const auto question = decode<EventsQuestion>(request.body);
  EventsAfter next{0, question.id, false};
  for (bool last = false; !last;) {
    worker.line.tell(PacketType::events, encode(next));
    const auto packet = hear_patiently(worker, PacketType::happened);
    if (!packet) return;
    const auto part = decode<EventsPart>(packet->body);
    if (part.missed != 0) {
      reply(worker, FrameType::missed, encode(MissedMessage{part.host, part.missed}));
    }
    for (const Event& event : part.events) {
      reply(worker, FrameType::event, encode(HostEvent{part.host, event}));
    }
    next.after = part.last;
    next.wait = question.follow && !part.more;
    last = !question.follow && !part.more;
  }
  reply(worker, FrameType::done);
}

void answer_remove(WorkerContext& worker, const net::Frame& request) {
  const auto question = decode<ChildQuestion>(request.body);
  worker.line.ask(PacketType::remove, encode(question), PacketType::done);
  reply(worker, FrameType::done);
}

}  // namespace rfork::session
