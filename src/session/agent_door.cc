#include "session/agent_door.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "session/messages.h"

namespace rfork::session {

namespace {

using net::FrameType;
using net::Io;

/// In the abstract namespace of unix(7): no file, and nobody else's permissions to trust.
struct DoorName {
  explicit DoorName(const std::string& move_id) {
    const std::string name = "rfork-agent-" + move_id;
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name.data(), name.size());
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }

  sockaddr_un address{};
  socklen_t size = 0;
};

UniqueFd open_socket() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) throw_errno("socket");
  return socket;
}

bool is_ours(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         (peer.uid == ::geteuid() || peer.uid == 0);
}

/// Bytes from one end on their way to the other.
struct Passage {
  std::array<std::byte, 64u << 10> bytes{};
  size_t from = 0, to = 0;
  bool empty() const { return from == to; }
};

Io to_io(ssize_t n) {
  if (n > 0) return {Io::State::done, static_cast<size_t>(n)};
  const bool later = n < 0 && (errno == EAGAIN || errno == EINTR);
  return {later ? Io::State::want_read : Io::State::closed, 0};
}

/// Both directions between a client and an agent.
class Forwarder {
 public:
  Forwarder(net::Link& link, UniqueFd agent) : link_(link), agent_(std::move(agent)) {}
  void run();

 private:
  bool from_client();
  bool from_agent();

  net::Link& link_;
  UniqueFd agent_;
  Passage up_, down_;
  bool flushing_ = false;
};

/// False when an end has closed.
bool Forwarder::from_client() {
  if (up_.empty()) {
    const Io io = link_.try_read_bytes(up_.bytes);
    if (io.state == Io::State::closed) return false;
    up_.from = 0;
    up_.to = io.state == Io::State::done ? io.size : 0;
  }
  while (!up_.empty()) {
    const Io io = to_io(::send(agent_.get(), up_.bytes.data() + up_.from, up_.to - up_.from,
                               MSG_DONTWAIT | MSG_NOSIGNAL));
    if (io.state == Io::State::closed) return false;
    if (io.state != Io::State::done) break;
    up_.from += io.size;
  }
  return true;
}

bool Forwarder::from_agent() {
  if (down_.empty()) {
    const Io io = to_io(::recv(agent_.get(), down_.bytes.data(), down_.bytes.size(), MSG_DONTWAIT));
    if (io.state == Io::State::closed) return false;
    down_.from = 0;
    down_.to = io.size;
  }
  while (!down_.empty()) {
    const Io io = link_.try_write_bytes(
        std::span<const std::byte>(down_.bytes).subspan(down_.from, down_.to - down_.from));
    if (io.state == Io::State::closed) return false;
    if (io.state != Io::State::done) break;
    down_.from += io.size;
    flushing_ = true;
  }
  if (flushing_) flushing_ = link_.try_flush().state != Io::State::done;
  return true;
}

void Forwarder::run() {
  // The first time unasked: what came together with ATTEND is read already.
  while (from_client() && from_agent()) {
    const auto wanted = [](bool is, int event) { return static_cast<short>(is ? event : 0); };
    std::array<pollfd, 3> polls{{{link_.input(), wanted(up_.empty(), POLLIN), 0},
                                 {link_.output(), wanted(!down_.empty() || flushing_, POLLOUT), 0},
                                 {agent_.get(), 0, 0}}};
    polls[2].events = wanted(!up_.empty(), POLLOUT) | wanted(down_.empty(), POLLIN);
    if (::poll(polls.data(), polls.size(), -1) < 0 && errno != EINTR) throw_errno("poll");
  }
}

}  // namespace

AgentDoor::AgentDoor(const std::string& move_id) : listener_(open_socket()) {
  const DoorName name(move_id);
  if (::bind(listener_.get(), name.get(), name.size) != 0) throw_errno("bind", "the agent's door");
  if (::listen(listener_.get(), 4) != 0) throw_errno("listen", "the agent's door");
}

UniqueFd AgentDoor::take() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (socket && !is_ours(socket.get())) socket.reset();
  return socket;
}

void answer_attend(WorkerContext& worker, const net::Frame& request) {
  const auto question = decode<MoveQuestion>(request.body);
  UniqueFd agent = open_socket();
  const DoorName name(is_move_id(question.move_id) ? question.move_id : "");
  if (::connect(agent.get(), name.get(), name.size) != 0 || !is_ours(agent.get())) {
    throw Refusal(Failure::destination_refused, "nobody attends to that child any more");
  }
  worker.line.tell(PacketType::attends);
  (void)std::signal(SIGPIPE, SIG_IGN);
  worker.link.write(FrameType::done, {},
                    {worker.options.deadlines.progress, "the answer to be taken"});
  try {
    Forwarder(worker.link, std::move(agent)).run();
  } catch (const Refusal&) {
    // The client's connection broke: the agent sees its end.
  }
}

}  // namespace rfork::session
