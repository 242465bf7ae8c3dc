#include "session/worker.h"

#include <spdlog/spdlog.h>

#include <exception>
#include <optional>

#include "base/error.h"
#include "session/agent_door.h"
#include "session/messages.h"
#include "session/peer_user.h"
#include "session/questions.h"
#include "session/reading.h"
#include "session/receive.h"

namespace rfork::session {

namespace {

using net::FrameType;

constexpr std::chrono::milliseconds kLinger{5'000};

/// Every reason of an exception, for a client or a log.
std::vector<Reason> reasons_of(const std::exception& error) {
  if (const auto* refusal = dynamic_cast<const Refusal*>(&error)) return refusal->reasons();
  return {{error.what(), ""}};
}

void log_failure(const std::string& peer, const std::exception& error) {
  for (const Reason& reason : reasons_of(error)) {
    const std::string line = visible(reason.line());
    spdlog::warn("{}", line.starts_with(peer) ? line : peer + ": " + line);
  }
}

/// The last word to a client whose request came to nothing.
void send_refusal(WorkerContext& worker, const std::exception& error) {
  const auto* refusal = dynamic_cast<const Refusal*>(&error);
  const bool aborted = refusal != nullptr && refusal->failure() == Failure::interrupted;
  RefusedMessage message{reasons_of(error)};
  if (aborted) {
    try {
      worker.line.throw_aborted();
    } catch (const Refusal& why) {
      message.reasons = why.reasons();
    }
  }
  if (worker.link.output_broken()) return;
  try {
    worker.link.write(FrameType::refused, encode(message),
                      {worker.options.deadlines.handshake, "the refusal to be taken"});
    worker.link.linger(kLinger);
  } catch (const std::exception&) {
    // The client is gone, or won't listen: it has been said in the log.
  }
}

/// A daemon without a key serves its own user only: everybody on the host can reach a loopback
/// port.
bool serves_user_of(const net::Transport& transport, const DaemonOptions& options) {
  // Standard input and output are of who started this daemon.
  return options.key || options.stdio || is_own_peer(transport.input());
}

void serve_request(WorkerContext& worker) {
  const net::Frame request = worker.link.read({worker.options.deadlines.request, "a request"});
  switch (request.type) {
    case FrameType::offer:
      return receive(worker, request);
    case FrameType::check:
      return answer_check(worker, request);
    case FrameType::resolve:
      return answer_resolve(worker, request);
    case FrameType::list:
      return answer_list(worker);
    case FrameType::logs:
      return answer_logs(worker, request);
    case FrameType::events:
      return answer_events(worker, request);
    case FrameType::kill:
      return answer_kill(worker, request);
    case FrameType::wait:
      return answer_wait(worker, request);
    case FrameType::remove:
      return answer_remove(worker, request);
    case FrameType::attend:
      return answer_attend(worker, request);
    default:
      throw_unexpected(worker.link, request, "a request");
  }
}

void serve(net::Transport transport, const std::string& peer, DaemonLine& line,
           const DaemonOptions& options) {
  if (!serves_user_of(transport, options)) {
    (void)transport.write(net::encode_preface({net::kProtocolVersion, net::Mode::user}));
    spdlog::warn("{} is another user's, and there is no key: not served", peer);
    return;
  }
  net::Link link(std::move(transport), peer, [&] { return line.aborted(); });
  link.handshake(net::Role::server, options.key ? &*options.key : nullptr,
                 {options.deadlines.handshake, "its greeting"});
  line.tell(PacketType::authenticated);

  WorkerContext worker{options, link, line};
  try {
    serve_request(worker);
  } catch (const std::exception& error) {
    log_failure(peer, error);
    if (!line.aborted()) line.tell(PacketType::failed);
    send_refusal(worker, error);
  }
}

}  // namespace

int serve_connection(net::Transport transport, const std::string& peer, Channel channel,
                     const DaemonOptions& options) noexcept {
  try {
    DaemonLine line(std::move(channel));
    serve(std::move(transport), peer, line, options);
    return 0;
  } catch (const std::exception& error) {
    log_failure(peer, error);
  } catch (...) {
    spdlog::error("{}: a failure without a name", peer);
  }
  return 1;
}

}  // namespace rfork::session
