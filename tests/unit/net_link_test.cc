// Two ends of a connection: plain and TLS, over a socket and over pipes; wrong keys, wrong peers,
// silence, cuts.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/io.h"
#include "net/link.h"

using namespace rfork;
using namespace rfork::net;
using Catch::Matchers::Contains;
using std::chrono::milliseconds;

namespace {

constexpr Wait kWait{milliseconds(10'000), "a test"};
const auto never = [] { return false; };

Key make_key(int first) {
  std::array<std::byte, kKeySize> bytes{};
  bytes[0] = static_cast<std::byte>(first);
  return Key(bytes);
}

std::pair<UniqueFd, UniqueFd> socket_pair() {
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::pair<UniqueFd, UniqueFd> make_pipe() {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Runs a function in another thread; what it throws is `error`.
class Other {
 public:
  explicit Other(std::function<void()> work)
      : thread_([this, work = std::move(work)] {
          try {
            work();
          } catch (const std::exception& thrown) {
            error_ = thrown.what();
          }
        }) {}
  ~Other() {
    if (thread_.joinable()) thread_.join();
  }
  /// Waits for its end.
  const std::string& error() {
    if (thread_.joinable()) thread_.join();
    return error_;
  }

 private:
  std::string error_;
  std::thread thread_;
};

Refusal refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Refusal& refusal) {
    return refusal;
  }
  return {Failure{}, "nothing was refused"};
}

/// Reads frames and sends them back, until GO.
void echo(Link& link) {
  for (;;) {
    const Frame frame = link.read(kWait);
    link.write(frame.type, frame.body, kWait);
    if (frame.type == FrameType::go) return;
  }
}

Bytes pattern(size_t size) {
  Bytes bytes(size);
  uint32_t x = 1;
  for (std::byte& byte : bytes) byte = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
  return bytes;
}

void check_echo(Transport near, Transport far, const Key* key) {
  Other other([&] {
    Link link(std::move(far), "client", never);
    link.handshake(Role::server, key, kWait);
    echo(link);
  });
  Link link(std::move(near), "server", never);
  link.handshake(Role::client, key, kWait);
  for (const size_t size : {0u, 1u, 4090u, 4091u, 4096u, 16384u, 65537u, 1u << 20}) {
    const Bytes body = pattern(size);
    link.write(FrameType::data, body, kWait);
    const Frame frame = link.read(kWait);
    CHECK(frame.type == FrameType::data);
    CHECK(frame.body == body);
  }
  link.write(FrameType::go, {}, kWait);
  CHECK(link.read(kWait).type == FrameType::go);
  CHECK(other.error().empty());
}

/// A listener on loopback whose first connection is served by `serve`.
class Listener {
 public:
  explicit Listener(std::function<void(int)> serve) {
    socket_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const plain = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(::bind(socket_.get(), plain, size) == 0);
    REQUIRE(::listen(socket_.get(), 1) == 0);
    REQUIRE(::getsockname(socket_.get(), plain, &size) == 0);
    port_ = ntohs(address.sin_port);
    other_.emplace([this, serve = std::move(serve)] {
      const UniqueFd connection(::accept(socket_.get(), nullptr, nullptr));
      serve(connection.get());
    });
  }
  Address address() const { return {"127.0.0.1", port_}; }

 private:
  UniqueFd socket_;
  uint16_t port_ = 0;
  std::optional<Other> other_;
};

/// Connects to a listener and says what came of the handshake.
Refusal greet(const Listener& listener, const Key* key, milliseconds timeout = kWait.timeout) {
  return refusal_of([&] {
    Link link(listener.address(), kWait, never);
    link.handshake(Role::client, key, {timeout, "rforkd's greeting"});
  });
}

}  // namespace

TEST_CASE("frames come back as they were sent") {
  const Key key = make_key(1);
  SECTION("plain, over a socket") {
    auto [near, far] = socket_pair();
    check_echo(Transport(std::move(near)), Transport(std::move(far)), nullptr);
  }
  SECTION("TLS, over a socket") {
    auto [near, far] = socket_pair();
    check_echo(Transport(std::move(near)), Transport(std::move(far)), &key);
  }
  SECTION("plain, over pipes") {
    auto [near_in, far_out] = make_pipe();
    auto [far_in, near_out] = make_pipe();
    check_echo(Transport(std::move(near_in), std::move(near_out)),
               Transport(std::move(far_in), std::move(far_out)), nullptr);
  }
  SECTION("TLS, over pipes") {
    auto [near_in, far_out] = make_pipe();
    auto [far_in, near_out] = make_pipe();
    check_echo(Transport(std::move(near_in), std::move(near_out)),
               Transport(std::move(far_in), std::move(far_out)), &key);
  }
}

TEST_CASE("a body can be read in pieces") {
  auto [near, far] = socket_pair();
  const Bytes body = pattern(300'000);
  Other other([&, end = std::make_shared<UniqueFd>(std::move(far))] {
    Link link(Transport(std::move(*end)), "client", never);
    link.handshake(Role::server, nullptr, kWait);
    link.write(FrameType::data, body, kWait);
    link.write(FrameType::end, {}, kWait);
  });
  Link link(Transport(std::move(near)), "server", never);
  link.handshake(Role::client, nullptr, kWait);
  const FrameHeader header = link.read_header(kWait);
  CHECK(header.size == body.size());
  Bytes got;
  std::array<std::byte, 777> piece;
  while (link.body_left() > 0) {
    const size_t n = link.read_body(piece, kWait);
    REQUIRE(n > 0);
    got.insert(got.end(), piece.begin(), piece.begin() + static_cast<ptrdiff_t>(n));
  }
  CHECK(link.read_body(piece, kWait) == 0);
  CHECK(got == body);
  CHECK(link.read(kWait).type == FrameType::end);
}

TEST_CASE("ends that don't belong together say so on both sides") {
  const Key one = make_key(1);
  const Key two = make_key(2);
  struct Pair {
    const Key* client;
    const Key* server;
    const char* at_client;
    const char* at_server;
  };
  for (const Pair& pair : {Pair{&one, &two, "has another key", "has another key"},
                           Pair{&one, nullptr, "runs without a key", "has a key"},
                           Pair{nullptr, &two, "wants a key", "came without a key"}}) {
    auto [near, far] = socket_pair();
    Other other([&, end = std::make_shared<UniqueFd>(std::move(far))] {
      Link link(Transport(std::move(*end)), "10.0.0.1:9", never);
      link.handshake(Role::server, pair.server, kWait);
    });
    Link link(Transport(std::move(near)), "10.0.0.2:7411", never);
    const Refusal refusal = refusal_of([&] { link.handshake(Role::client, pair.client, kWait); });
    CHECK(refusal.failure() == Failure::destination_refused);
    CHECK_THAT(refusal.what(), Contains(pair.at_client) && Contains("10.0.0.2:7411"));
    CHECK_THAT(other.error(), Contains(pair.at_server) && Contains("10.0.0.1:9"));
  }
}

TEST_CASE("what is no rforkd is recognised, with and without a key") {
  const Key key = make_key(1);
  for (const Key* with : {static_cast<const Key*>(nullptr), &key}) {
    const Listener http([](int fd) {
      write_full(fd, as_bytes("HTTP/1.1 400 Bad Request\r\n\r\n"), "answer");
      std::array<std::byte, 64> rest;
      (void)read_full(fd, rest, "rest");
    });
    const Refusal talks = greet(http, with);
    CHECK(talks.failure() == Failure::connection_lost);
    CHECK_THAT(talks.what(), Contains("is no rforkd"));

    const Listener short_word([](int fd) { write_full(fd, as_bytes("220 "), "answer"); });
    CHECK_THAT(greet(short_word, with).what(), Contains("is no rforkd"));

    const Listener closes([](int) {});
    const Refusal closed = greet(closes, with);
    CHECK(closed.failure() == Failure::connection_lost);
    CHECK_THAT(closed.what(), Contains("127.0.0.1"));

    const Listener silent([](int fd) {
      std::array<std::byte, 64> rest;
      (void)read_full(fd, rest, "rest");
    });
    const auto begin = std::chrono::steady_clock::now();
    const Refusal waited = greet(silent, with, milliseconds(200));
    CHECK(waited.failure() == Failure::connection_lost);
    CHECK_THAT(waited.what(), Contains("200 ms") && Contains("greeting"));
    CHECK(std::chrono::steady_clock::now() - begin < milliseconds(5'000));
  }
}

TEST_CASE("nobody listens, or the name is nobody's") {
  const Refusal refused = refusal_of([] { Link({"127.0.0.1", 1}, kWait, never); });
  CHECK(refused.failure() == Failure::connection_lost);
  CHECK_THAT(refused.what(), Contains("127.0.0.1:1") && Contains("is rforkd running"));
}

TEST_CASE("a frame over its cap, of no type, or cut is refused") {
  for (const auto& [bytes, what] :
       {std::pair<std::string, const char*>{std::string("\x01\x00\x10\x00\x02", 5), "ANSWER"},
        {std::string("\x00\x00\x00\x00\x63", 5), "unknown type 99"},
        {std::string("\x08\x00\x00\x00\x02xyz", 8), "closed"},
        {std::string("\x08\x00", 2), "closed"},
        {std::string(), "closed"}}) {
    auto [near, far] = socket_pair();
    {
      const UniqueFd end = std::move(far);
      write_full(end.get(), std::span<const std::byte>(encode_preface({})), "preface");
      write_full(end.get(), as_bytes(bytes), "bytes");
      ::shutdown(end.get(), SHUT_WR);
      Link link(Transport(std::move(near)), "peer", never);
      link.handshake(Role::client, nullptr, kWait);
      const Refusal refusal = refusal_of([&] { (void)link.read(kWait); });
      CHECK(refusal.failure() == Failure::connection_lost);
      CHECK_THAT(refusal.what(), Contains(what));
    }
  }
}

TEST_CASE("TLS that is cut or altered on its way is no message") {
  const Key key = make_key(1);
  for (const bool alter : {false, true}) {
    auto [near, middle_near] = socket_pair();
    auto [middle_far, far] = socket_pair();
    // Passes everything on, but the fourth piece from the server.
    Other up([&, in = middle_near.get(), out = middle_far.get()] {
      std::array<std::byte, 65536> buffer;
      for (ssize_t n; (n = ::read(in, buffer.data(), buffer.size())) > 0;) {
        if (::write(out, buffer.data(), static_cast<size_t>(n)) < 0) return;
      }
    });
    std::atomic<bool> spoil{false};
    Other down([&, in = middle_far.get(), out = middle_near.get()] {
      std::array<std::byte, 65536> buffer;
      for (ssize_t n; (n = ::read(in, buffer.data(), buffer.size())) > 0;) {
        if (spoil && !alter) n /= 2;
        if (spoil && alter) buffer[static_cast<size_t>(n) - 1] ^= std::byte{1};
        if (::write(out, buffer.data(), static_cast<size_t>(n)) < 0) break;
        if (spoil && !alter) break;
      }
      ::shutdown(out, SHUT_RDWR);
    });
    Other server([&, end = std::make_shared<UniqueFd>(std::move(far))] {
      Link link(Transport(std::move(*end)), "client", never);
      link.handshake(Role::server, &key, kWait);
      (void)link.read(kWait);
      spoil = true;
      link.write(FrameType::data, pattern(1000), kWait);
      link.linger(milliseconds(1'000));
    });
    {
      Link link(Transport(std::move(near)), "server", never);
      link.handshake(Role::client, &key, kWait);
      link.write(FrameType::go, {}, kWait);
      const Refusal refusal = refusal_of([&] { (void)link.read(kWait); });
      CHECK(refusal.failure() == Failure::connection_lost);
    }
    ::shutdown(middle_far.get(), SHUT_RDWR);
    ::shutdown(middle_near.get(), SHUT_RDWR);
  }
}

TEST_CASE("a wait ends when it is interrupted") {
  auto [near, far] = socket_pair();
  write_full(far.get(), std::span<const std::byte>(encode_preface({})), "preface");
  std::atomic<bool> stop{false};
  Link link(Transport(std::move(near)), "peer", [&] { return stop.load(); });
  link.handshake(Role::client, nullptr, kWait);
  Other other([&] {
    std::this_thread::sleep_for(milliseconds(50));
    stop = true;
  });
  const auto begin = std::chrono::steady_clock::now();
  CHECK(refusal_of([&] { (void)link.read(kWait); }).failure() == Failure::interrupted);
  CHECK(std::chrono::steady_clock::now() - begin < milliseconds(2'000));
}

TEST_CASE("a peer that takes nothing lets the deadline pass") {
  auto [near, far] = socket_pair();
  write_full(far.get(), std::span<const std::byte>(encode_preface({})), "preface");
  Link link(Transport(std::move(near)), "peer", never);
  link.handshake(Role::client, nullptr, kWait);
  const Bytes body(1u << 20);
  const Refusal refusal = refusal_of([&] {
    link.write(FrameType::data, body, {milliseconds(100), "the image to be taken"});
  });
  CHECK(refusal.failure() == Failure::connection_lost);
  CHECK(link.output_broken());
}
