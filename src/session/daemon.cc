// One thread and one event loop. The daemon itself reads nothing that a peer wrote: it accepts,
// forks, and then hears only its workers and the kernel. Signals come through a signalfd, so that a
// forked worker inherits no handler that would write into the daemon's loop.

#include "session/daemon.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/experimental/as_tuple.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <csignal>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "base/error.h"
#include "net/connect.h"
#include "net/preface.h"
#include "net/tls.h"
#include "session/channel.h"
#include "session/desk.h"
#include "session/listener.h"
#include "session/notifier.h"
#include "session/worker.h"

namespace rfork::session {

namespace {

using asio::ip::tcp;
using asio::posix::descriptor_base;
using Clock = std::chrono::steady_clock;
constexpr auto kAsTuple = asio::experimental::as_tuple(asio::use_awaitable);

/// A worker as the daemon sees it.
struct Worker {
  Worker(asio::io_context& context, WorkerId number, Channel line, std::string from)
      : id(number), channel(std::move(line)), input(context, channel.fd()), peer(std::move(from)) {}
  ~Worker() { input.release(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  WorkerId id;
  pid_t pid = 0;
  Channel channel;
  asio::posix::stream_descriptor input;  ///< waits on the channel's descriptor, doesn't own it
  std::string peer;
  bool authenticated = false;
  bool attends = false;  ///< stays with its child, and goes on without the daemon
  Clock::time_point since = Clock::now();
};

class Daemon {
 public:
  explicit Daemon(const DaemonOptions& options);
  void run();

 private:
  void block_signals();
  std::vector<tcp::acceptor> bind();
  void announce();
  asio::awaitable<void> hear_signals();
  asio::awaitable<void> accept_connections(tcp::acceptor& acceptor);
  asio::awaitable<void> hear_worker(std::shared_ptr<Worker> worker);
  asio::awaitable<void> hear_init(InitPipe pipe);
  asio::awaitable<void> end_slow_handshakes();

  void take_connection(UniqueFd socket, const std::string& peer);
  void take_standard_streams();
  void start_worker(net::Transport transport, const std::string& peer);
  [[noreturn]] void become_worker(net::Transport transport, const std::string& peer,
                                  Channel channel);
  bool make_room();
  void drain(Worker& worker);
  void reap();
  void bury(std::shared_ptr<Worker> worker, int wait_status);
  void dismiss_workers();
  void send(WorkerId id, PacketType type, const Bytes& body, int descriptor);

  const DaemonOptions& options_;
  asio::io_context context_{1};
  sigset_t signals_{};
  sigset_t former_mask_{};
  UniqueFd signal_fd_;
  std::vector<tcp::acceptor>
      acceptors_;  ///< bound first: a daemon that can't listen leaves nothing behind
  Notifier notifier_;
  std::map<WorkerId, std::shared_ptr<Worker>> workers_;
  WorkerId next_worker_ = 1;
  Desk desk_;
};

std::string state_dir_of(const DaemonOptions& options) {
  return options.state_dir.empty() ? default_state_dir() : options.state_dir;
}

LogStore open_logs(const DaemonOptions& options) {
  LogStore logs(state_dir_of(options), options.max_ended);
  if (!logs.problem().empty()) {
    spdlog::warn("logs of children will have no names: {}", logs.problem());
  }
  return logs;
}

/// A daemon that ends with its connection leaves word for the next.
std::optional<MoveRecords> open_records(const DaemonOptions& options) {
  if (!options.stdio) return std::nullopt;
  return MoveRecords(state_dir_of(options), options.max_ended);
}

Daemon::Daemon(const DaemonOptions& options)
    : options_(options),
      acceptors_(bind()),
      notifier_(options.notify),
      desk_(
          open_logs(options), options.max_ended,
          [this](WorkerId id, PacketType type, const Bytes& body, int descriptor) {
            send(id, type, body, descriptor);
          },
          open_records(options), [this](const HostEvent& event) { notifier_.tell(event); }) {
  // Children whose worker has ended become the daemon's, to be waited for.
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) throw_errno("prctl(PR_SET_CHILD_SUBREAPER)");
  // Every child costs a descriptor or two.
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
  }
  (void)std::signal(SIGPIPE, SIG_IGN);  // a log that nobody reads any more
  if (options.key) net::prepare_tls(net::Role::server);
}

void Daemon::run() {
  block_signals();
  announce();
  asio::co_spawn(context_, hear_signals(), asio::detached);
  asio::co_spawn(context_, end_slow_handshakes(), asio::detached);
  for (tcp::acceptor& acceptor : acceptors_) {
    asio::co_spawn(context_, accept_connections(acceptor), asio::detached);
  }
  if (options_.stdio) take_standard_streams();
  context_.run();
  dismiss_workers();
  if (!options_.port_file.empty()) ::unlink(options_.port_file.c_str());
  const size_t alive = desk_.children().alive();
  if (alive == 0) {
    spdlog::info("stops");
  } else {
    spdlog::info("stops; {} {} on, with no one to keep the exit status", alive,
                 alive == 1 ? "child runs" : "children run");
  }
}

void Daemon::block_signals() {
  sigemptyset(&signals_);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals_, signal);
  if (sigprocmask(SIG_BLOCK, &signals_, &former_mask_) != 0) throw_errno("sigprocmask");
  signal_fd_.reset(::signalfd(-1, &signals_, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!signal_fd_) throw_errno("signalfd");
}

std::vector<tcp::acceptor> Daemon::bind() {
  std::vector<tcp::acceptor> acceptors;
  for (const net::Address& address : options_.listen) {
    acceptors.push_back(listen_on(context_, address, !options_.key));
  }
  return acceptors;
}

/// Tells where it listens: who started it can go on.
void Daemon::announce() {
  if (!options_.port_file.empty()) {
    const UniqueFd file =
        open_or_throw(options_.port_file, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644);
    const std::string port = std::to_string(acceptors_.front().local_endpoint().port()) + "\n";
    write_full(file.get(), as_bytes(port), options_.port_file);
  }
  if (!options_.key && !options_.stdio)
    spdlog::info("no key: only processes of this user on this host are served");
  for (const tcp::acceptor& acceptor : acceptors_) {
    spdlog::info("listening on {}", text_of(acceptor.local_endpoint()));
  }
}

asio::awaitable<void> Daemon::hear_signals() {
  asio::posix::stream_descriptor input(context_, ::dup(signal_fd_.get()));
  for (;;) {
    co_await input.async_wait(descriptor_base::wait_read, asio::use_awaitable);
    signalfd_siginfo signal{};
    while (::read(signal_fd_.get(), &signal, sizeof signal) == sizeof signal) {
      if (signal.ssi_signo == SIGCHLD) continue;
      spdlog::info("{}", strsignal(static_cast<int>(signal.ssi_signo)));
      context_.stop();
      co_return;
    }
    reap();  // one SIGCHLD may stand for many
  }
}

asio::awaitable<void> Daemon::accept_connections(tcp::acceptor& acceptor) {
  constexpr std::chrono::milliseconds kPause{100};
  for (;;) {
    tcp::endpoint peer;
    auto [error, socket] = co_await acceptor.async_accept(peer, kAsTuple);
    if (error) {
      // Out of descriptors or memory: others give some back. Without a pause this would spin.
      spdlog::warn("accept: {}", error.message());
      asio::steady_timer timer(context_, kPause);
      co_await timer.async_wait(asio::use_awaitable);
      continue;
    }
    try {
      take_connection(UniqueFd(socket.release()), text_of(peer));
    } catch (const std::exception& failure) {
      spdlog::error("{}: no worker: {}", text_of(peer), failure.what());
    }
  }
}

/// Whether one more connection can be served. When too many have not shown the key yet, the oldest
/// of them is dropped, unless it is young itself: who holds connections open can't keep others out.
bool Daemon::make_room() {
  constexpr std::chrono::milliseconds kYoung{1'000};
  if (workers_.size() >= options_.max_connections) return false;
  Worker* oldest = nullptr;
  size_t strangers = 0;
  for (const auto& [id, worker] : workers_) {
    if (worker->authenticated) continue;
    ++strangers;
    if (oldest == nullptr) oldest = worker.get();
  }
  if (strangers < options_.max_unauthenticated) return true;
  if (Clock::now() - oldest->since < kYoung) return false;
  spdlog::warn("{} is dropped: it has not shown the key, and others wait", oldest->peer);
  ::kill(oldest->pid, SIGKILL);  // not reaped, so the pid is still its own
  return true;
}

void Daemon::take_connection(UniqueFd socket, const std::string& peer) {
  net::set_tcp_options(socket.get());
  if (!make_room()) {
    const auto busy = net::encode_preface({net::kProtocolVersion, net::Mode::busy});
    (void)::send(socket.get(), busy.data(), busy.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    spdlog::warn("{} is turned away: too many connections", peer);
    return;
  }
  start_worker(net::Transport(std::move(socket)), peer);
}

/// The worker alone holds them from here on: whoever waits for their end waits for it, and for no
/// child.
void Daemon::take_standard_streams() {
  const UniqueFd null = open_or_throw("/dev/null", O_RDWR);
  const auto take = [&](int standard) {
    UniqueFd taken(::fcntl(standard, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    if (!taken) throw_errno("fcntl(F_DUPFD_CLOEXEC)", std::to_string(standard));
    if (::dup2(null.get(), standard) < 0) throw_errno("dup2", std::to_string(standard));
    return taken;
  };
  UniqueFd input = take(STDIN_FILENO);
  start_worker(net::Transport(std::move(input), take(STDOUT_FILENO)), "the client");
}

void Daemon::start_worker(net::Transport transport, const std::string& peer) {
  auto [mine, theirs] = make_seqpacket_pair();
  auto worker = std::make_shared<Worker>(context_, next_worker_++, Channel(std::move(mine)), peer);
  const pid_t pid = ::fork();
  if (pid < 0) throw_errno("fork");
  if (pid == 0) become_worker(std::move(transport), peer, Channel(std::move(theirs)));
  worker->pid = pid;
  workers_.emplace(worker->id, worker);
  asio::co_spawn(context_, hear_worker(worker), asio::detached);
}

void Daemon::become_worker(net::Transport transport, const std::string& peer, Channel channel) {
  // Everything else that is open belongs to the daemon or to other workers; an inherited end of
  // another worker's channel would hide that worker's end. Nothing of the daemon's is destroyed
  // here.
  unsigned first = STDERR_FILENO + 1;
  for (const int kept : std::set<int>{transport.input(), transport.output(), channel.fd()}) {
    const auto fd = static_cast<unsigned>(kept);
    if (first < fd) (void)::close_range(first, fd - 1, 0);
    first = fd + 1;
  }
  (void)::close_range(first, ~0U, 0);
  (void)::prctl(PR_SET_NAME, "rforkd-worker");
  (void)::sigprocmask(SIG_SETMASK, &former_mask_, nullptr);
  const int code = serve_connection(std::move(transport), peer, std::move(channel), options_);
  ::_exit(code);
}

asio::awaitable<void> Daemon::hear_worker(std::shared_ptr<Worker> worker) {
  try {
    for (;;) {
      co_await worker->input.async_wait(descriptor_base::wait_read, asio::use_awaitable);
      drain(*worker);
    }
  } catch (const ChannelClosed&) {
    // Its end is reaped.
  } catch (const std::exception& error) {
    if (workers_.contains(worker->id)) {
      spdlog::error("{}: its worker can't be heard: {}", worker->peer, error.what());
      ::kill(worker->pid, SIGKILL);
    }
  }
}

/// Everything a worker has said so far: more than its channel holds at a time, but not all that one
/// says that never stops.
void Daemon::drain(Worker& worker) {
  constexpr int kMost = 1024;
  for (int i = 0; i < kMost; ++i) {
    std::optional<Packet> packet = worker.channel.receive(std::chrono::milliseconds(0));
    if (!packet) return;
    if (packet->type == PacketType::authenticated) {
      worker.authenticated = true;
      continue;
    }
    if (packet->type == PacketType::attends) worker.attends = true;
    desk_.handle(worker.id, std::move(*packet));
  }
}

asio::awaitable<void> Daemon::hear_init(InitPipe pipe) {
  asio::posix::stream_descriptor input(context_, pipe.reader.release());
  do {
    co_await input.async_wait(descriptor_base::wait_read, asio::use_awaitable);
  } while (desk_.hear_init(pipe.child_id));
}

void Daemon::reap() {
  // What workers said comes before what became of them: "let go" before the child's end.
  for (const auto& [id, worker] : workers_) {
    try {
      drain(*worker);
    } catch (const std::exception&) {
      // It has ended: waitpid tells.
    }
  }
  int status = 0;
  rusage usage{};
  constexpr int kChanges = WNOHANG | WUNTRACED | WCONTINUED;
  for (pid_t pid; (pid = ::wait4(-1, &status, kChanges, &usage)) > 0;) {
    const auto worker =
        std::ranges::find_if(workers_, [&](const auto& entry) { return entry.second->pid == pid; });
    if (worker == workers_.end()) {
      desk_.waited(pid, status, final_use(usage));
    } else if (WIFEXITED(status) || WIFSIGNALED(status)) {
      bury(worker->second, status);
    }
  }
  if (options_.stdio && workers_.empty()) context_.stop();
}

void Daemon::bury(std::shared_ptr<Worker> worker, int wait_status) {
  try {
    drain(*worker);
  } catch (const std::exception&) {
    // The channel's end.
  }
  if (WIFSIGNALED(wait_status)) {
    spdlog::error("{}: its worker was ended by signal {}", worker->peer, WTERMSIG(wait_status));
  }
  workers_.erase(worker->id);
  worker->input.cancel();
  if (std::optional<InitPipe> pipe = desk_.worker_gone(worker->id)) {
    asio::co_spawn(context_, hear_init(std::move(*pipe)), asio::detached);
  }
}

/// Workers see the end of their channels: what they have not let go they end, and tell their
/// clients.
void Daemon::dismiss_workers() {
  constexpr std::chrono::seconds kPatience{2};
  constexpr std::chrono::milliseconds kLook{5};
  for (const auto& [id, worker] : workers_) ::shutdown(worker->channel.fd(), SHUT_RDWR);
  const auto deadline = Clock::now() + kPatience;
  const auto ends = [](const auto& entry) { return !entry.second->attends; };
  while (std::ranges::any_of(workers_, ends) && Clock::now() < deadline) {
    reap();
    std::this_thread::sleep_for(kLook);
  }
}

/// A worker minds its own deadlines; this is for one that hangs.
asio::awaitable<void> Daemon::end_slow_handshakes() {
  constexpr std::chrono::seconds kPeriod{1};
  constexpr std::chrono::seconds kGrace{3};
  asio::steady_timer timer(context_);
  for (;;) {
    timer.expires_after(kPeriod);
    co_await timer.async_wait(asio::use_awaitable);
    for (const auto& [id, worker] : workers_) {
      const auto age = Clock::now() - worker->since;
      if (!worker->authenticated && age > options_.deadlines.handshake + kGrace) {
        ::kill(worker->pid, SIGKILL);
      }
    }
  }
}

void Daemon::send(WorkerId id, PacketType type, const Bytes& body, int descriptor) {
  const auto found = workers_.find(id);
  if (found == workers_.end()) return;
  try {
    found->second->channel.send(type, body, descriptor);
  } catch (const ChannelClosed&) {
    // It has ended: waitpid tells.
  } catch (const std::exception& error) {
    spdlog::error("{}: its worker does not listen: {}", found->second->peer, error.what());
    ::kill(found->second->pid, SIGKILL);
  }
}

}  // namespace

void run_daemon(const DaemonOptions& options) {
  Daemon(options).run();
}

}  // namespace rfork::session
