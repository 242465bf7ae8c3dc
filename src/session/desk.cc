#include "session/desk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/clock.h"
#include "base/error.h"
#include "session/messages.h"

namespace rfork::session {

namespace {

constexpr size_t kListPart = 32;       ///< children in one packet: well below kMaxPacket
constexpr size_t kMaxEvents = 10'000;  ///< that are kept: some 4 MiB

int send_signal(const Child& child, int signal) {
  return static_cast<int>(::syscall(SYS_pidfd_send_signal, child.pidfd.get(), signal, nullptr, 0));
}

/// With what only the kernel knows of it.
ChildInfo current(const Child& child) {
  ChildInfo info = child.info;
  if (info.state != ChildState::running) return info;
  const std::optional<ProcessLook> look = look_at(info.pid);
  // The pid may be another's by now, unless the child still takes signals.
  if (look && send_signal(child, 0) == 0) {
    info.stopped = look->state == 'T';
    info.use = look->use;
  }
  return info;
}

}  // namespace

Desk::Desk(LogStore logs, size_t max_ended, Send send, std::optional<MoveRecords> records,
           EventDesk::Publish publish)
    : logs_(std::move(logs)),
      children_(max_ended),
      send_(std::move(send)),
      records_(std::move(records)),
      events_(kMaxEvents, send_, std::move(publish)) {}

void Desk::handle(WorkerId worker, Packet packet) {
  try {
    dispatch(worker, packet);
  } catch (const std::exception& error) {
    refuse(worker, error);
  }
}

void Desk::dispatch(WorkerId worker, Packet& packet) {
  switch (packet.type) {
    case PacketType::announce:
      return announce(worker, packet);
    case PacketType::standing:
      return stand(worker, packet);
    case PacketType::end_pipe:
      return take_end_pipe(worker, packet);
    case PacketType::may_go:
      return grant(worker);
    case PacketType::let_go:
      return let_go(worker);
    case PacketType::received:
      if (const Child* child = children_.of_worker(worker)) tell(*child, EventKind::received);
      return;
    case PacketType::attends:
      return attend(worker);
    case PacketType::changed:
      return take_change(packet);
    case PacketType::signalled:
      return take_signal(packet);
    case PacketType::lost:
      return take_loss(packet);
    case PacketType::used:
      return take_use(packet);
    case PacketType::events:
      return events(worker, packet);
    case PacketType::failed:
      return give_up(worker);
    case PacketType::resolve:
      return resolve(worker, packet);
    case PacketType::list:
      return list(worker, packet);
    case PacketType::kill:
      return kill(worker, packet);
    case PacketType::wait:
      return wait(worker, packet);
    case PacketType::look:
      return look(worker, packet);
    case PacketType::remove:
      return remove(worker, packet);
    case PacketType::logs:
      return give_log(worker, packet);
    default:
      throw Refusal(Failure::internal, "a packet that a worker may not send");
  }
}

void Desk::announce(WorkerId worker, const Packet& packet) {
  ChildInfo info = decode<Announcement>(packet.body).child;
  if (children_.of_worker(worker) != nullptr) {
    throw Refusal(Failure::internal, "one worker announced two children");
  }
  Child& child = children_.announce(std::move(info), worker);
  try {
    if (records_) records_->begin(child.info.move_id);
    LogStore::Log log = logs_.create(child.info.move_id);
    send_info(worker, PacketType::registered, child.info, log.fd.get());
    child.log_path = std::move(log.path);
    if (child.log_path.empty()) child.log = std::move(log.fd);
  } catch (const std::exception&) {
    children_.abort(child);
    throw;
  }
  tell(child, EventKind::offered);
}

void Desk::stand(WorkerId worker, Packet& packet) {
  const auto standing = decode<Standing>(packet.body);
  Child* const child = children_.of_worker(worker);
  if (child == nullptr || !packet.descriptor) {
    throw Refusal(Failure::internal, "a worker without a child says that it stands ready");
  }
  child->pidfd = std::move(packet.descriptor);
  child->wait_pid = standing.wait_pid;
  child->info.pid = standing.pid;
  child->info.inner_pid = standing.inner_pid;
  child->info.state = ChildState::ready;
  send_(worker, PacketType::done, {}, -1);
  tell(*child, EventKind::restored);
}

void Desk::take_end_pipe(WorkerId worker, Packet& packet) {
  Child* const child = children_.of_worker(worker);
  if (child == nullptr || !packet.descriptor) return;
  // It is read only when its writer has ended, but this process must never wait.
  if (fcntl(packet.descriptor.get(), F_SETFL, O_NONBLOCK) != 0) throw_errno("fcntl(O_NONBLOCK)");
  child->end_pipe = std::move(packet.descriptor);
}

void Desk::grant(WorkerId worker) {
  Child* const child = children_.of_worker(worker);
  const bool granted = child != nullptr && children_.grant(*child);
  if (!granted || (records_ && !records_->grant(child->info.move_id))) {
    throw Refusal(Failure::destination_refused, "the restore was aborted there meanwhile");
  }
  send_(worker, PacketType::done, {}, -1);
}

void Desk::let_go(WorkerId worker) {
  Child* const child = children_.of_worker(worker);
  if (child == nullptr || child->info.state != ChildState::granted) return;
  children_.let_go(*child, clock_ns(CLOCK_REALTIME));
  tell(*child, EventKind::running);
  record(child->info.move_id, [&](MoveRecords& records) {
    records.let_go(child->info.move_id, child->info.id, child->info.pid);
  });
  answer_resolves(child->info.move_id);
}

void Desk::resolve(WorkerId worker, const Packet& packet) {
  const std::string move_id = decode<MoveQuestion>(packet.body).move_id;
  std::optional<WorkerId> abort_worker;
  std::optional<Resolution> resolution = children_.resolve(move_id, abort_worker);
  if (records_ && resolution && resolution->state == Resolution::State::unknown) {
    resolution = records_->resolve(move_id);
  }
  if (abort_worker) {
    spdlog::info("move {} is aborted: its client asked", move_id);
    send_(*abort_worker, PacketType::aborted, encode(AbortMessage{"its client asked again"}), -1);
  }
  if (resolution) {
    send_(worker, PacketType::resolution, encode(*resolution), -1);
  } else {
    resolves_.push_back({worker, move_id});
  }
}

/// Of what has happened already: a question that comes to another rforkd is answered by "unknown"
/// if it can't be written down.
void Desk::record(const std::string& move_id, const std::function<void(MoveRecords&)>& step) {
  try {
    if (records_) step(*records_);
  } catch (const std::exception& error) {
    spdlog::warn("move {}: {}", move_id, error.what());
  }
}

void Desk::list(WorkerId worker, const Packet& packet) {
  const auto question = decode<ListQuestion>(packet.body);
  ListPart part;
  const auto found = children_.list(question.after, kListPart + 1);
  part.more = found.size() > kListPart;
  for (const Child* child : found) {
    if (part.children.size() < kListPart) part.children.push_back(current(*child));
  }
  send_(worker, PacketType::children, encode(part), -1);
}

void Desk::kill(WorkerId worker, const Packet& packet) {
  const auto order = decode<KillOrder>(packet.body);
  const Child& child = children_.find(order.id);
  if (child.info.state != ChildState::running) {
    throw Refusal(Failure::destination_refused, fmt::format("child {} does not run: it is {}",
                                                            order.id, name_of(child.info.state)));
  }
  if (order.signal < 1 || order.signal > SIGRTMAX) {
    throw Refusal(Failure::destination_refused, fmt::format("there is no signal {}", order.signal));
  }
  if (send_signal(child, order.signal) != 0) {
    throw_errno("pidfd_send_signal", fmt::format("child {}", order.id));
  }
  spdlog::info("child {} is sent signal {}", order.id, order.signal);
  tell_signal(child, order.signal);
  send_(worker, PacketType::done, {}, -1);
}

void Desk::wait(WorkerId worker, const Packet& packet) {
  const std::string id = decode<ChildQuestion>(packet.body).id;
  const Child& child = children_.find(id);
  if (child.info.state == ChildState::ended) {
    send_info(worker, PacketType::child, child.info);
  } else {
    waits_.push_back({worker, id});
  }
}

void Desk::look(WorkerId worker, const Packet& packet) {
  const Child& child = children_.find(decode<ChildQuestion>(packet.body).id);
  send_info(worker, PacketType::child, current(child));
}

void Desk::remove(WorkerId worker, const Packet& packet) {
  const Child child = children_.remove(decode<ChildQuestion>(packet.body).id);
  forget_log(child);
  spdlog::info("child {} is forgotten", child.info.id);
  send_(worker, PacketType::done, {}, -1);
}

void Desk::give_log(WorkerId worker, const Packet& packet) {
  const Child& child = children_.find(decode<ChildQuestion>(packet.body).id);
  UniqueFd opened;
  if (!child.log_path.empty()) opened = open_or_throw(child.log_path, O_RDONLY | O_NOFOLLOW);
  send_info(worker, PacketType::child, current(child), opened ? opened.get() : child.log.get());
}

std::optional<InitPipe> Desk::worker_gone(WorkerId worker) {
  const auto of_worker = [&](const Waiting& one) { return one.worker == worker; };
  std::erase_if(resolves_, of_worker);
  std::erase_if(waits_, of_worker);
  events_.worker_gone(worker);
  give_up(worker);
  Child* const left = children_.running_of(worker);
  if (left == nullptr) return std::nullopt;
  if (left->attended) lose(*left, "the process that stayed with it has ended");
  if (!left->end_pipe) return std::nullopt;
  return InitPipe{left->info.id,
                  UniqueFd(::fcntl(left->end_pipe.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1))};
}

/// The worker's child, if it has one, never runs.
void Desk::give_up(WorkerId worker) {
  Child* const child = children_.of_worker(worker);
  if (child == nullptr) return;
  // The stub ends by itself when its loader does. Granted is special: whether it was let go can't
  // be known any more, so it is made sure that it was not.
  if (child->pidfd) (void)send_signal(*child, SIGKILL);
  const std::string move_id = child->info.move_id;
  const ChildInfo info = child->info;
  lose(*child, "it was not let run");
  forget_log(*child);
  children_.abort(*child);
  record(move_id, [&](MoveRecords& records) { records.abort(move_id); });
  spdlog::info("child {} was not let run", info.id);
  answer_resolves(move_id);
  std::erase_if(waits_, [&](const Waiting& one) {
    if (one.key != info.id) return false;
    refuse(one.worker,
           Refusal(Failure::destination_refused, fmt::format("child {} never ran", info.id)));
    return true;
  });
}

void Desk::events(WorkerId worker, const Packet& packet) {
  const auto question = decode<EventsAfter>(packet.body);
  const bool first = question.after == 0;
  if (first && !question.id.empty() && !events_.knows(question.id)) {
    (void)children_.find(question.id);
  }
  events_.answer(worker, question);
}

void Desk::refuse(WorkerId worker, const std::exception& why) {
  RefusedMessage message{{{why.what(), ""}}};
  if (const auto* refusal = dynamic_cast<const Refusal*>(&why)) {
    message.reasons = refusal->reasons();
  }
  send_(worker, PacketType::refused, encode(message), -1);
}

void Desk::send_info(WorkerId worker, PacketType type, const ChildInfo& info, int descriptor) {
  send_(worker, type, encode(info), descriptor);
}

void Desk::answer_resolves(const std::string& move_id) {
  std::erase_if(resolves_, [&](const Waiting& one) {
    if (one.key != move_id) return false;
    std::optional<WorkerId> none;
    if (const auto resolution = children_.resolve(move_id, none)) {
      send_(one.worker, PacketType::resolution, encode(*resolution), -1);
    }
    return true;
  });
}

void Desk::answer_waits(const Child& child) {
  std::erase_if(waits_, [&](const Waiting& one) {
    if (one.key != child.info.id) return false;
    send_info(one.worker, PacketType::child, child.info);
    return true;
  });
}

void Desk::forget_log(const Child& child) {
  LogStore::remove(child.log_path);
}

}  // namespace rfork::session
