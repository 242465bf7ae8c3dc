#include "net/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <asio/experimental/as_tuple.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <cstring>

#include "base/error.h"
#include "base/text.h"

namespace rfork::net {

namespace {

constexpr auto kAsTuple = asio::experimental::as_tuple(asio::use_awaitable);

}  // namespace

Connection::Connection(asio::io_context& context, Transport transport, std::string peer)
    : context_(context),
      transport_(std::move(transport)),
      peer_(std::move(peer)),
      input_(context, transport_.input()) {
  if (transport_.output() != transport_.input()) output_.emplace(context, transport_.output());
}

Connection::~Connection() {
  // The transport owns the descriptors; asio only waits on them.
  input_.release();
  if (output_) output_->release();
}

void Connection::lose(std::string_view how) const {
  throw Refusal(Failure::connection_lost, fmt::format("{} {}", peer_, how));
}

asio::posix::stream_descriptor& Connection::descriptor_for(Io::State direction) {
  return direction == Io::State::want_write && output_ ? *output_ : input_;
}

/// Waits until an operation that gave `io` can be tried again.
asio::awaitable<void> Connection::settle(Io io, Bound bound) {
  using asio::experimental::awaitable_operators::operator||;
  if (io.state == Io::State::closed) {
    lose(fmt::format("closed the connection while this side waited for {}", bound.wait.for_what));
  }
  const auto direction = io.state == Io::State::want_write
                             ? asio::posix::descriptor_base::wait_write
                             : asio::posix::descriptor_base::wait_read;
  asio::steady_timer timer(context_, bound.at);
  // as_tuple: a cancelled wait counts as the first to end, where an exception would wait for the
  // timer.
  const auto first = co_await (descriptor_for(io.state).async_wait(direction, kAsTuple) ||
                               timer.async_wait(kAsTuple));
  if (first.index() == 1) {
    lose(fmt::format("let {} pass without {}",
                     human_duration_ns(std::chrono::nanoseconds(bound.wait.timeout).count()),
                     bound.wait.for_what));
  }
}

Io Connection::try_read(std::span<std::byte> buffer) {
  try {
    return tls_ ? tls_->read(buffer) : transport_.read(buffer);
  } catch (const std::exception& broken) {
    lose(fmt::format("can't be read from any more ({})", broken.what()));
  }
}

Io Connection::try_write(std::span<const std::byte> first, std::span<const std::byte> second) {
  try {
    if (!tls_) return transport_.write(first, second);
    return tls_->write(first.empty() ? second : first);
  } catch (const std::exception& broken) {
    lose(fmt::format("can't be written to any more ({})", broken.what()));
  }
}

Io Connection::try_read_bytes(std::span<std::byte> buffer) {
  const size_t ahead = std::min(buffer.size(), buffer_end_ - buffer_at_);
  if (ahead == 0) return try_read(buffer);
  std::copy_n(buffer_.begin() + static_cast<ptrdiff_t>(buffer_at_), ahead, buffer.begin());
  buffer_at_ += ahead;
  return {Io::State::done, ahead};
}

Io Connection::try_write_bytes(std::span<const std::byte> bytes) {
  return try_write(bytes, {});
}

Io Connection::try_flush() {
  try {
    return tls_ ? tls_->flush() : Io{};
  } catch (const std::exception& broken) {
    lose(fmt::format("can't be written to any more ({})", broken.what()));
  }
}

asio::awaitable<size_t> Connection::read_some(std::span<std::byte> buffer, Bound bound) {
  for (;;) {
    const Io io = try_read(buffer);
    if (io.state == Io::State::done) {
      wire_bytes_ += io.size;
      co_return io.size;
    }
    co_await settle(io, bound);
  }
}

asio::awaitable<void> Connection::write_all(std::span<const std::byte> head,
                                            std::span<const std::byte> body, Bound bound) {
  wire_bytes_ += head.size() + body.size();
  while (!head.empty() || !body.empty()) {
    const Io io = try_write(head, body);
    if (io.state != Io::State::done) {
      co_await settle(io, bound);
      continue;
    }
    inside_write_ = true;
    const size_t of_head = std::min(io.size, head.size());
    head = head.subspan(of_head);
    body = body.subspan(io.size - of_head);
  }
  for (Io io = try_flush(); io.state != Io::State::done; io = try_flush()) {
    co_await settle(io, bound);
  }
  inside_write_ = false;
}

asio::awaitable<void> Connection::exchange_prefaces(Role role, Mode mode, Bound bound) {
  const auto mine = encode_preface({kProtocolVersion, mode});
  co_await write_all(mine, {}, bound);
  // Not one byte more than the preface is read: TLS reads what follows from the transport itself.
  std::array<std::byte, kPrefaceSize> theirs{};
  size_t got = 0;
  while (got < theirs.size() && is_preface(std::span(theirs).first(got))) {
    got += co_await read_some(std::span(theirs).subspan(got), bound);
  }
  const auto come = std::span(theirs).first(got);
  if (!is_preface(come)) not_a_preface_.assign(come.begin(), come.end());
  check_preface(theirs, role, mode, peer_);
}

asio::awaitable<void> Connection::handshake(Role role, const Key* key, Wait wait) {
  const Bound bound{std::chrono::steady_clock::now() + wait.timeout, wait};
  co_await exchange_prefaces(role, key != nullptr ? Mode::key : Mode::plain, bound);
  if (key == nullptr) co_return;
  auto tls = std::make_unique<TlsStream>(transport_, role, *key);
  for (;;) {
    Io io;
    try {
      io = tls->handshake();
    } catch (const Refusal& refusal) {
      const Reason& reason = refusal.reasons().front();
      throw Refusal(refusal.failure(), peer_ + " " + reason.what, reason.advice);
    } catch (const Error& broken) {
      lose(fmt::format("broke the connection in the handshake ({})", broken.what()));
    }
    if (io.state == Io::State::done) break;
    co_await settle(io, bound);
  }
  tls_ = std::move(tls);
}

asio::awaitable<void> Connection::write_frame(FrameType type, std::span<const std::byte> body,
                                              Wait wait) {
  const Bound bound{std::chrono::steady_clock::now() + wait.timeout, wait};
  const auto head = encode_header({type, static_cast<uint32_t>(body.size())});
  co_await write_all(head, body, bound);
}

asio::awaitable<FrameHeader> Connection::read_header(Wait wait) {
  const Bound bound{std::chrono::steady_clock::now() + wait.timeout, wait};
  if (buffer_at_ > 0) {
    std::copy(buffer_.begin() + static_cast<ptrdiff_t>(buffer_at_),
              buffer_.begin() + static_cast<ptrdiff_t>(buffer_end_), buffer_.begin());
    buffer_end_ -= buffer_at_;
    buffer_at_ = 0;
  }
  while (buffer_end_ < kFrameHeaderSize) {
    buffer_end_ += co_await read_some(std::span(buffer_).subspan(buffer_end_), bound);
  }
  FrameHeader header;
  try {
    header = decode_header(std::span(buffer_).first<kFrameHeaderSize>());
  } catch (const Refusal& refusal) {
    lose(fmt::format("sent {}", refusal.what()));
  }
  buffer_at_ = kFrameHeaderSize;
  body_left_ = header.size;
  co_return header;
}

asio::awaitable<size_t> Connection::read_body(std::span<std::byte> buffer, Wait wait) {
  buffer = buffer.first(std::min(buffer.size(), body_left_));
  if (buffer.empty()) co_return 0;
  size_t got = std::min(buffer.size(), buffer_end_ - buffer_at_);
  if (got > 0) {
    std::copy_n(buffer_.begin() + static_cast<ptrdiff_t>(buffer_at_), got, buffer.begin());
    buffer_at_ += got;
  } else {
    got = co_await read_some(buffer, {std::chrono::steady_clock::now() + wait.timeout, wait});
  }
  body_left_ -= got;
  co_return got;
}

asio::awaitable<Frame> Connection::read_frame(Wait wait) {
  const auto begin = std::chrono::steady_clock::now();
  const FrameHeader header = co_await read_header(wait);
  Frame frame{header.type, {}};
  // Memory is taken as bytes come, so that a length alone costs nothing.
  constexpr size_t kStep = 256u << 10;
  while (body_left_ > 0) {
    const auto spent = std::chrono::steady_clock::now() - begin;
    const auto left = wait.timeout - std::chrono::ceil<std::chrono::milliseconds>(spent);
    const size_t have = frame.body.size();
    frame.body.resize(have + std::min(body_left_, kStep));
    const size_t got =
        co_await read_body(std::span(frame.body).subspan(have),
                           {std::max(left, std::chrono::milliseconds(0)), wait.for_what});
    frame.body.resize(have + got);
  }
  co_return frame;
}

bool Connection::input_waiting() const {
  return buffer_at_ < buffer_end_ || (tls_ && tls_->input_waiting()) || transport_.input_waiting();
}

asio::awaitable<void> Connection::linger(std::chrono::milliseconds timeout) {
  transport_.finish_output();
  const Bound bound{std::chrono::steady_clock::now() + timeout, {timeout, "the end"}};
  std::vector<std::byte> dropped(64u << 10);
  try {
    for (;;) {
      const Io io = transport_.read(dropped);
      if (io.state == Io::State::closed) co_return;
      if (io.state != Io::State::done) co_await settle(io, bound);
      if (std::chrono::steady_clock::now() > bound.at) co_return;
    }
  } catch (const std::exception&) {
    // Nothing is lost: all that mattered was said before.
  }
}

}  // namespace rfork::net
