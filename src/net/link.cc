#include "net/link.h"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <exception>
#include <optional>
#include <type_traits>
#include <variant>

#include "base/error.h"
#include "net/connect.h"
#include "net/connection.h"
#include "net/ssh.h"

namespace rfork::net {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPoll{50};

}  // namespace

struct Link::State {
  explicit State(Interrupted asked) : interrupted(std::move(asked)) {}

  asio::io_context context{1};
  Interrupted interrupted;
  std::optional<Ssh> ssh;  ///< outlives its pipes, which the connection holds
  std::optional<Connection> connection;
  Clock::time_point polled = Clock::now();

  /// Runs one coroutine to its end.
  template <typename T>
  T run(asio::awaitable<T> operation);
  /// The same once an rforkd has greeted: ssh may know more of a loss.
  template <typename T>
  T talk(asio::awaitable<T> operation);
  bool asked_to_stop();
};

bool Link::State::asked_to_stop() {
  if (Clock::now() - polled < kPoll) return false;
  polled = Clock::now();
  return interrupted();
}

template <typename T>
T Link::State::run(asio::awaitable<T> operation) {
  asio::cancellation_signal cancel;
  std::exception_ptr error;
  bool done = false;
  std::conditional_t<std::is_void_v<T>, std::monostate, T> result{};
  const auto spawn = [&](auto handler) {
    asio::co_spawn(context, std::move(operation),
                   asio::bind_cancellation_slot(cancel.slot(), handler));
  };
  if constexpr (std::is_void_v<T>) {
    spawn([&](std::exception_ptr thrown) {
      error = thrown;
      done = true;
    });
  } else {
    spawn([&](std::exception_ptr thrown, T value) {
      error = thrown;
      result = std::move(value);
      done = true;
    });
  }
  bool stop = false;
  context.restart();
  while (!done) {
    context.run_one_for(kPoll);
    if (stop || done || !asked_to_stop()) continue;
    stop = true;
    cancel.emit(asio::cancellation_type::terminal);
  }
  if (stop && error) throw Refusal(Failure::interrupted, "interrupted");
  if (error) std::rethrow_exception(error);
  if constexpr (!std::is_void_v<T>) return result;
}

template <typename T>
T Link::State::talk(asio::awaitable<T> operation) {
  if (!ssh) return run(std::move(operation));
  try {
    return run(std::move(operation));
  } catch (const Refusal& refusal) {
    if (refusal.failure() != Failure::connection_lost) throw;
    ssh->explain_loss(refusal);
  }
}

Link::Link(const Address& address, Wait wait, Interrupted interrupted)
    : state_(std::make_unique<State>(std::move(interrupted))) {
  if (address.way == Address::Way::ssh) {
    state_->ssh.emplace(address);
    state_->connection.emplace(state_->context, state_->ssh->take_transport(), address.text());
    return;
  }
  UniqueFd socket = state_->run(connect(address, wait));
  state_->connection.emplace(state_->context, Transport(std::move(socket)), address.text());
}

Link::Link(Transport transport, std::string peer, Interrupted interrupted)
    : state_(std::make_unique<State>(std::move(interrupted))) {
  state_->connection.emplace(state_->context, std::move(transport), std::move(peer));
}

Link::~Link() = default;
Link::Link(Link&&) noexcept = default;
Link& Link::operator=(Link&&) noexcept = default;

void Link::handshake(Role role, const Key* key, Wait wait) {
  try {
    state_->run(state_->connection->handshake(role, key, wait));
  } catch (const Refusal& refusal) {
    if (!state_->ssh || refusal.failure() != Failure::connection_lost) throw;
    state_->ssh->explain_silence(refusal, *state_->connection);
  }
  if (state_->ssh) state_->ssh->greeted();
}

void Link::write(FrameType type, std::span<const std::byte> body, Wait wait) {
  state_->talk(state_->connection->write_frame(type, body, wait));
}

Frame Link::read(Wait wait) {
  return state_->talk(state_->connection->read_frame(wait));
}

FrameHeader Link::read_header(Wait wait) {
  return state_->talk(state_->connection->read_header(wait));
}

size_t Link::read_body(std::span<std::byte> buffer, Wait wait) {
  return state_->talk(state_->connection->read_body(buffer, wait));
}

size_t Link::body_left() const {
  return state_->connection->body_left();
}
bool Link::input_waiting() const {
  return state_->connection->input_waiting();
}
bool Link::output_broken() const {
  return state_->connection->output_broken();
}

Io Link::try_read_bytes(std::span<std::byte> buffer) {
  return state_->connection->try_read_bytes(buffer);
}
Io Link::try_write_bytes(std::span<const std::byte> bytes) {
  return state_->connection->try_write_bytes(bytes);
}
Io Link::try_flush() {
  return state_->connection->try_flush();
}
int Link::input() const {
  return state_->connection->input();
}
int Link::output() const {
  return state_->connection->output();
}

void Link::linger(std::chrono::milliseconds timeout) {
  state_->run(state_->connection->linger(timeout));
}

const std::string& Link::peer() const {
  return state_->connection->peer();
}
uint64_t Link::wire_bytes() const {
  return state_->connection->wire_bytes();
}

}  // namespace rfork::net
