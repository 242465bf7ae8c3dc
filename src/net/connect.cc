#include "net/connect.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <asio/connect.hpp>
#include <asio/experimental/as_tuple.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace rfork::net {

namespace {

using asio::ip::tcp;
constexpr auto kAsTuple = asio::experimental::as_tuple(asio::use_awaitable);

[[noreturn]] void fail(const Address& address, const asio::error_code& error) {
  std::string advice;
  if (error == asio::error::connection_refused) advice = "is rforkd running there?";
  throw Refusal(Failure::connection_lost, fmt::format("{}: {}", address.text(), error.message()),
                advice);
}

/// getaddrinfo(3) can't be interrupted, and asio's resolver waits for it when it is destroyed: for
/// ten seconds where a name server says nothing. So it has a thread that nobody waits for.
struct LookUp {
  std::atomic<bool> done = false;
  std::string failure;
  std::vector<tcp::endpoint> endpoints;
};

void look_up_now(LookUp& found, const Address& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* list = nullptr;
  const int error = ::getaddrinfo(address.host.c_str(), nullptr, &hints, &list);
  if (error != 0)
    found.failure = error == EAI_SYSTEM ? std::strerror(errno) : ::gai_strerror(error);
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    tcp::endpoint endpoint;
    if (entry->ai_addrlen > endpoint.capacity()) continue;
    std::memcpy(endpoint.data(), entry->ai_addr, entry->ai_addrlen);
    endpoint.resize(entry->ai_addrlen);
    endpoint.port(address.port);
    found.endpoints.push_back(endpoint);
  }
  if (list != nullptr) ::freeaddrinfo(list);
  found.done = true;
}

asio::awaitable<std::vector<tcp::endpoint>> look_up(Address address) {
  const auto found = std::make_shared<LookUp>();
  std::thread([found, address] { look_up_now(*found, address); }).detach();
  asio::steady_timer timer(co_await asio::this_coro::executor);
  while (!found->done) {
    timer.expires_after(std::chrono::milliseconds(2));
    co_await timer.async_wait(asio::use_awaitable);  // throws when it is cancelled
  }
  if (!found->failure.empty()) {
    throw Refusal(Failure::connection_lost, fmt::format("{}: {}", address.text(), found->failure));
  }
  co_return found->endpoints;
}

asio::awaitable<UniqueFd> connect_unbounded(Address address) {
  const auto executor = co_await asio::this_coro::executor;
  tcp::socket socket(executor);
  asio::error_code no_number;
  const auto number = asio::ip::make_address(address.host, no_number);
  if (!no_number) {
    const auto [error] = co_await socket.async_connect({number, address.port}, kAsTuple);
    if (error) fail(address, error);
  } else {
    const auto endpoints = co_await look_up(address);
    const auto [error, endpoint] = co_await asio::async_connect(socket, endpoints, kAsTuple);
    if (error) fail(address, error);
  }
  co_return UniqueFd(socket.release());
}

}  // namespace

void set_tcp_options(int socket) {
  const auto set = [&](int level, int name, int value) {
    // Refused on what is no TCP socket; the options only help.
    (void)::setsockopt(socket, level, name, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
  // The same for what was sent and isn't confirmed; by itself the kernel tries for 15 minutes.
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30'000);
}

asio::awaitable<UniqueFd> connect(const Address& address, Wait wait) {
  using asio::experimental::awaitable_operators::operator||;
  asio::steady_timer timer(co_await asio::this_coro::executor, wait.timeout);
  // An exception would make || wait for the timer, so it travels as a value.
  struct Outcome {
    UniqueFd socket;
    std::exception_ptr error;
  };
  const auto caught = [](Address to) -> asio::awaitable<Outcome> {
    Outcome outcome;  // g++ 12 destroys a temporary aggregate with a co_await in it twice
    try {
      outcome.socket = co_await connect_unbounded(std::move(to));
    } catch (...) {
      outcome.error = std::current_exception();
    }
    co_return outcome;
  };
  auto first = co_await (caught(address) || timer.async_wait(kAsTuple));
  if (first.index() == 1) {
    throw Refusal(Failure::connection_lost,
                  fmt::format("{} did not take the connection within {}", address.text(),
                              human_duration_ns(std::chrono::nanoseconds(wait.timeout).count())));
  }
  Outcome& outcome = std::get<0>(first);
  if (outcome.error) std::rethrow_exception(outcome.error);
  UniqueFd socket = std::move(outcome.socket);
  set_tcp_options(socket.get());
  co_return socket;
}

}  // namespace rfork::net
