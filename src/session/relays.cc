#include "session/relays.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "session/relay_frames.h"
#include "session/relay_io.h"

namespace rfork::session {

using net::FrameType;

void Relays::add(uint32_t id, UniqueFd fd, bool source, bool sink, bool socket, Reading reading) {
  Stream& stream = streams_[id];
  stream.fd = std::move(fd);
  stream.source = source;
  stream.sink = sink;
  stream.socket = socket;
  stream.on_demand = reading == Reading::on_demand;
  stream.terminal = ::isatty(stream.fd.get()) == 1;
  stream.tcp = socket && is_tcp(stream.fd.get());
  if (stream.on_demand && !stream.terminal) stream.others.emplace(stream.fd.get(), true);
  stream.at_once = at_once(stream.fd.get(), socket);
  if (sink && !is_open_ && is_pipe(stream.fd.get())) stream.writers.emplace(stream.fd.get(), false);
}

bool Relays::may_read(const Stream& stream) const {
  if (stream.held || (stream.on_demand && stream.announced)) return false;
  if (stream.discards) return true;
  return stream.source && stream.sent - stream.acknowledged < kWindow && pump_.queued() < kQueued;
}

void Relays::add_polls(std::vector<pollfd>& polls) {
  polled_.clear();
  for (auto& [id, stream] : streams_) {
    if (!stream.fd) continue;
    short events = 0;
    if (may_read(stream)) events |= POLLIN;
    if (stream.sink && (!stream.pending.empty() || stream.resets)) events |= POLLOUT;
    // A sink alone is always watched: that its reader has gone shows as POLLERR. A source that may
    // not be read now would show its end again and again.
    if (events == 0 && !(stream.sink && !stream.source)) continue;
    polled_.emplace_back(id, polls.size());
    polls.push_back({stream.fd.get(), events, 0});
  }
}

void Relays::handle(std::span<const pollfd> polls) {
  for (const auto& [id, index] : polled_) {
    const short events = polls[index].revents;
    Stream& stream = streams_.at(id);
    if (events == 0 || !stream.fd) continue;
    if (stream.sink && (events & POLLOUT) != 0) write_sink(id, stream);
    if (stream.sink && !stream.source && (events & (POLLERR | POLLHUP)) != 0) {
      break_sink(id, stream);
    }
    if ((events & (POLLIN | POLLHUP | POLLERR)) != 0 && may_read(stream)) read_source(id, stream);
    close_if_idle(stream);
  }
}

void Relays::read_source(uint32_t id, Stream& stream) {
  if (leave_to_others(id, stream)) return;
  read_some(id, stream, kPiece);
}

void Relays::read_some(uint32_t id, Stream& stream, size_t most) {
  const std::span<std::byte> room = pump_.body_room(kRelayHeadSize, std::min(most, kPiece));
  const ssize_t n = stream.socket ? ::recv(stream.fd.get(), room.data(), room.size(), MSG_DONTWAIT)
                                  : read_now(stream.fd.get(), room, stream.at_once);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  // A terminal whose other end has gone gives EIO, a connection that was reset ECONNRESET.
  if (n < 0 && stream.socket) stream.was_reset = true;
  if (n <= 0) return end_source(id, stream);
  if (stream.discards) return;
  pump_.put_filled(FrameType::relay, encode_head(id, stream.sent), static_cast<size_t>(n));
  stream.sent += static_cast<uint64_t>(n);
}

void Relays::end_source(uint32_t id, Stream& stream) {
  if (!stream.source) return;
  stream.source = false;
  if (stream.was_reset || other_end_closed(id, stream)) return tell_closed(id, stream);
  pump_.put(FrameType::relay_end, encode_head(id, stream.sent));
}

/// Who shares our end with the process that closed its own must not see a shutdown(2).
bool Relays::other_end_closed(uint32_t id, const Stream& stream) const {
  if (!stream.socket) return false;
  if (is_open_) return !is_open_(id);
  pollfd state{stream.fd.get(), 0, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & POLLHUP) != 0;
}

void Relays::tell_closed(uint32_t id, Stream& stream) {
  stream.source = stream.sink = false;
  stream.pending.reset();
  const std::byte reset{kReset};
  pump_.put(FrameType::relay_closed, encode_head(id, stream.sent),
            std::span(&reset, stream.was_reset ? 1 : 0));
}

/// Gives what can't be written now.
std::span<const std::byte> Relays::write_some(uint32_t id, Stream& stream,
                                              std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto part = bytes.first(whole_at_once(stream, bytes));
    const ssize_t n = stream.socket ? ::send(stream.fd.get(), part.data(), part.size(),
                                             MSG_DONTWAIT | MSG_NOSIGNAL)
                                    : write_now(stream.fd.get(), part, stream.at_once);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (n < 0) {
      break_sink(id, stream);
      return {};
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
    stream.written += static_cast<uint64_t>(n);
  }
  return bytes;
}

void Relays::write_sink(uint32_t id, Stream& stream) {
  const size_t rest = write_some(id, stream, stream.pending.bytes()).size();
  if (!stream.sink) return;
  stream.pending.pop(stream.pending.size() - rest);
  if (stream.written > stream.reported &&
      (rest == 0 || stream.written - stream.reported >= kReportEvery)) {
    pump_.put(FrameType::relay_taken, encode_head(id, stream.written));
    stream.reported = stream.written;
  }
  const bool left = !stream.resets || has_left(stream.fd.get());
  if (rest == 0 && stream.ended && left && !may_come_back(stream)) {
    stream.sink = false;
    if (stream.shared && !stream.socket) tell_broken(id, stream, false);
    if (stream.closed) stream.source = false;
    if (stream.socket && !stream.closed) ::shutdown(stream.fd.get(), SHUT_WR);
  }
}

/// Nobody reads any more: who writes on the other side shall know.
void Relays::break_sink(uint32_t id, Stream& stream) {
  if (!stream.sink) return;
  stream.sink = false;
  const bool closed = other_end_closed(id, stream);
  // To one that was merely closed can be written, once.
  if (closed && stream.tcp) stream.was_reset = true;
  if (closed && !stream.source) return tell_closed(id, stream);
  tell_broken(id, stream, closed);
}

bool Relays::takes(FrameType type) {
  switch (type) {
    case FrameType::relay:
    case FrameType::relay_taken:
    case FrameType::relay_end:
    case FrameType::relay_broken:
    case FrameType::relay_closed:
    case FrameType::relay_ready:
    case FrameType::relay_wanted:
    case FrameType::relay_window:
      return true;
    default:
      return false;
  }
}

void Relays::take_bytes(uint32_t id, Stream& stream, std::span<const std::byte> bytes) {
  const bool answer = std::exchange(stream.asked, false);
  if (!bytes.empty()) stream.offered = false;
  if (!stream.sink) {  // the other side has been told, and only lacks what it sent before
    if (!answer || !stream.shared) return;
    stream.pending.append(bytes);
    return tell_broken(id, stream, false);
  }
  if (stream.received - stream.written > kWindow + kPiece + kLastWords) {
    refuse(FrameType::relay, "it is too much");
  }
  // Straight from where they came, unless others wait already.
  stream.pending.append(stream.pending.empty() ? write_some(id, stream, bytes) : bytes);
  if (stream.sink) write_sink(id, stream);
}

void Relays::take(FrameType type, std::span<const std::byte> body) {
  const RelayHead head = decode_head(type, body);
  const auto found = streams_.find(head.stream);
  if (found == streams_.end()) refuse(type, fmt::format("there is no stream {}", head.stream));
  Stream& stream = found->second;
  const auto bytes = body.subspan(kRelayHeadSize);
  switch (type) {
    case FrameType::relay:
      if (head.position != stream.received || stream.ended) refuse(type, "bytes are missing");
      stream.received += bytes.size();
      take_bytes(head.stream, stream, bytes);
      break;
    case FrameType::relay_taken:
      if (head.position > stream.sent || head.position < stream.acknowledged) {
        refuse(type, "so much was not sent");
      }
      stream.acknowledged = head.position;
      break;
    case FrameType::relay_end:
      if (head.position != stream.received) refuse(type, "bytes are missing");
      stream.ended = true;
      stream.asked = false;
      if (stream.sink) write_sink(head.stream, stream);
      break;
    case FrameType::relay_ready:
      stream.offered = stream.shared = true;
      break;
    case FrameType::relay_wanted:
      read_wanted(head.stream, stream, std::max<size_t>(1, head.position));
      break;
    case FrameType::relay_window: {
      winsize size{};
      std::memcpy(&size, &head.position, sizeof size);
      if (stream.fd) ::ioctl(stream.fd.get(), TIOCSWINSZ, &size);
      break;
    }
    case FrameType::relay_broken:
      take_broken(head.stream, stream, head.position == kShut, bytes);
      break;
    case FrameType::relay_closed:
      if (head.position != stream.received) refuse(type, "bytes are missing");
      take_closed(head.stream, stream, !bytes.empty() && bytes[0] == std::byte{kReset});
      break;
    default:
      refuse(type, "it is none of a relay");
  }
  close_if_idle(stream);
}

void Relays::drain() {
  for (auto& [id, stream] : streams_) {
    if (stream.sink && !stream.source) {
      pollfd state{stream.fd.get(), 0, 0};
      if (::poll(&state, 1, 0) > 0) break_sink(id, stream);
    }
    while (stream.source) {
      pollfd ready{stream.fd.get(), POLLIN, 0};
      if (::poll(&ready, 1, 0) <= 0) break;
      read_source(id, stream);
    }
    close_if_idle(stream);
  }
}

void Relays::hold(uint32_t id, bool held) {
  streams_.at(id).held = held;
}

void Relays::tell_window(uint32_t id, uint64_t size) {
  pump_.put(FrameType::relay_window, encode_head(id, size));
}

void Relays::tell_modes(uint32_t id, std::span<const std::byte> modes) {
  pump_.put(FrameType::relay_modes, encode_head(id, 0), modes);
}

bool Relays::has_undelivered() const {
  for (const auto& [id, stream] : streams_) {
    if (stream.sink && !stream.pending.empty()) return true;
  }
  return false;
}

bool Relays::terminal_is_behind() const {
  for (const auto& [id, stream] : streams_) {
    if (stream.terminal && stream.sink && !stream.pending.empty()) return true;
  }
  return false;
}

bool Relays::all_closed() const {
  for (const auto& [id, stream] : streams_) {
    if (stream.fd) return false;
  }
  return !awaits_answer();
}

}  // namespace rfork::session
