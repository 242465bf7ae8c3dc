// What others at the origin may read, too: only what the child waits for is taken from it, and what
// the child leaves unread is given back.
#include <sys/socket.h>

#include <algorithm>
#include <climits>

#include "session/relay_frames.h"
#include "session/relay_io.h"
#include "session/relays.h"

namespace rfork::session {

using net::FrameType;

namespace {

constexpr std::chrono::milliseconds kFirstPause{1}, kLongestPause{1'000};

}  // namespace

/// The end of a pipe is everybody's.
bool Relays::leave_to_others(uint32_t id, Stream& stream) {
  if (!stream.on_demand || at_end_of_pipe(stream.fd.get())) return false;
  if (stream.others && !stream.others->exist()) {
    stream.on_demand = false;
    return false;
  }
  stream.announced = true;
  stream.look_pause = kFirstPause;
  stream.look_at = Clock::now() + stream.look_pause;
  pump_.put(FrameType::relay_ready, encode_head(id, 0));
  return true;
}

int Relays::look_who_shares() {
  int64_t wait = -1;
  const auto now = Clock::now();
  for (auto& [id, stream] : streams_) {
    if (!stream.source || !stream.on_demand || !stream.announced || !stream.others) continue;
    if (now >= stream.look_at) {
      stream.on_demand = stream.others->exist();
      if (!stream.on_demand) continue;
      stream.look_pause = std::min(2 * stream.look_pause, kLongestPause);
      stream.look_at = now + stream.look_pause;
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(stream.look_at - now);
    wait = wait < 0 ? left.count() : std::min<int64_t>(wait, left.count());
  }
  return static_cast<int>(wait);
}

/// There is an answer always, though there may be nothing any more: who asked may go away
/// meanwhile.
void Relays::read_wanted(uint32_t id, Stream& stream, size_t bytes) {
  if (!stream.source) return;
  stream.announced = false;
  if (!stream.others) stream.on_demand = false;
  const uint64_t before = stream.sent;
  if (stream.on_demand) read_some(id, stream, bytes);
  if (stream.sent > before && !stream.socket) stream.lent = true;
  if (stream.source && stream.sent == before) pump_.put(FrameType::relay, encode_head(id, before));
}

/// What was taken from others who read the same pipe, and isn't read yet.
bool Relays::may_come_back(const Stream& stream) {
  return stream.shared && is_pipe(stream.fd.get()) && session::has_unread(stream.fd.get());
}

bool Relays::awaits_answer() const {
  return std::ranges::any_of(
      streams_, [](const auto& entry) { return entry.second.asked && !entry.second.sink; });
}

bool Relays::look_whether_read() {
  bool waits = false;
  for (auto& [id, stream] : streams_) {
    if (!stream.sink || !stream.ended || !stream.shared || !stream.pending.empty()) continue;
    write_sink(id, stream);
    close_if_idle(stream);
    waits = waits || stream.sink;
  }
  return waits;
}

std::vector<uint32_t> Relays::unwanted() const {
  std::vector<uint32_t> ids;
  for (const auto& [id, stream] : streams_) {
    if (stream.offered && stream.sink) ids.push_back(id);
  }
  return ids;
}

bool Relays::has_unread(uint32_t id) const {
  const Stream& stream = streams_.at(id);
  return !stream.pending.empty() || session::has_unread(stream.fd.get());
}

void Relays::want(uint32_t id, size_t bytes) {
  Stream& stream = streams_.at(id);
  stream.offered = false;
  stream.asked = true;
  pump_.put(FrameType::relay_wanted, encode_head(id, bytes));
}

/// With what came and was not read, if it is somebody else's then; what was asked for last is
/// waited for.
void Relays::tell_broken(uint32_t id, Stream& stream, bool closed) {
  ByteQueue unread;
  if (stream.shared) {
    if (stream.fd) take_all_of_pipe(stream.fd.get(), unread);
    unread.append(stream.pending.bytes());
  }
  stream.pending = std::move(unread);
  if (stream.asked) return;
  const auto head = encode_head(id, closed ? kClosed : kShut);
  do {
    const auto bytes = stream.pending.bytes();
    const auto piece = bytes.first(std::min(bytes.size(), kPiece));
    pump_.put(FrameType::relay_broken, head, piece);
    stream.pending.pop(piece.size());
  } while (!stream.pending.empty());
  stream.pending.reset();
}

/// So much of `bytes` is written by one write(2): lines stay whole beside those of others, who
/// write the same pipe. The kernel keeps no more together than PIPE_BUF.
size_t Relays::whole_at_once(Stream& stream, std::span<const std::byte> bytes) {
  constexpr size_t kLongestLook = 1u << 20;  // bytes
  if (!stream.writers || bytes.size() <= PIPE_BUF) return bytes.size();
  if (stream.until_look == 0) {
    stream.until_look = stream.look_every;
    stream.look_every = std::min(2 * stream.look_every, kLongestLook);
    if (!stream.writers->exist()) {
      stream.writers.reset();
      return bytes.size();
    }
  }
  const auto whole = bytes.first(PIPE_BUF);
  const auto newline = std::find(whole.rbegin(), whole.rend(), std::byte{'\n'});
  const size_t size = newline == whole.rend() ? whole.size() : whole.rend() - newline;
  stream.until_look -= std::min(size, stream.until_look);
  return size;
}

/// Who writes to a socket that nobody reads any more is told, unless others read it.
void Relays::stop_reading(Stream& stream, bool shut) {
  if (!stream.source) return;
  stream.source = false;
  if (!stream.socket) return;
  if (shut || is_open_ || !OtherHolders(stream.fd.get(), true).exist()) {
    ::shutdown(stream.fd.get(), SHUT_RD);
  }
}

/// Before what is in the pipe now. The stream is one that writes to it then.
void Relays::give_back(uint32_t id, Stream& stream, std::span<const std::byte> bytes) {
  if (!stream.fd || bytes.empty()) return;
  if (!stream.sink) {
    UniqueFd writer = writing_end(stream.fd.get());
    if (!writer) return;
    stream.pending.append(bytes);
    take_all_of_pipe(stream.fd.get(), stream.pending);
    stream.fd = std::move(writer);
    stream.sink = stream.ended = true;
    stream.reported = UINT64_MAX;  // nobody waits to hear of it
    stream.at_once = 0;
  } else {
    stream.pending.append(bytes);
  }
  write_sink(id, stream);
}

}  // namespace rfork::session
