#include "session/daemon_line.h"

#include "base/error.h"
#include "session/messages.h"

namespace rfork::session {

namespace {

// The daemon's loop answers in well under a millisecond, but for a RESOLVE of a child that is being
// let go.
constexpr std::chrono::milliseconds kAnswer{20'000};
constexpr const char* kDaemonEnded = "rforkd has ended";

}  // namespace

Packet DaemonLine::ask(PacketType question, std::span<const std::byte> body, PacketType expected,
                       int descriptor) {
  if (!why_.empty()) throw_aborted();
  try {
    channel_.send(question, body, descriptor);
  } catch (const ChannelClosed&) {
    why_ = kDaemonEnded;
    throw_aborted();
  }
  std::optional<Packet> answer = hear(expected, kAnswer);
  if (!answer) throw Refusal(Failure::destination_refused, "rforkd does not answer its worker");
  return std::move(*answer);
}

void DaemonLine::tell(PacketType type, std::span<const std::byte> body, int descriptor) {
  try {
    channel_.send(type, body, descriptor);
  } catch (const ChannelClosed&) {
    why_ = kDaemonEnded;
    throw_aborted();
  }
}

void DaemonLine::report(PacketType type, std::span<const std::byte> body) {
  try {
    channel_.send_patiently(type, body);
  } catch (const ChannelClosed&) {
    why_ = kDaemonEnded;
  }
}

std::optional<Packet> DaemonLine::hear(PacketType expected, std::chrono::milliseconds timeout) {
  std::optional<Packet> packet;
  try {
    if (early_.empty()) {
      packet = channel_.receive(timeout);
    } else {
      packet = std::move(early_.front());
      early_.pop_front();
    }
  } catch (const ChannelClosed&) {
    why_ = kDaemonEnded;
    throw_aborted();
  }
  if (!packet) return packet;
  if (packet->type == PacketType::aborted) {
    why_ = decode<AbortMessage>(packet->body).why;
    throw_aborted();
  }
  if (packet->type == PacketType::refused) {
    throw Refusal(Failure::destination_refused, decode<RefusedMessage>(packet->body).reasons);
  }
  if (packet->type != expected) {
    throw Refusal(Failure::internal, "rforkd gave its worker an answer to another question");
  }
  return packet;
}

bool DaemonLine::aborted() {
  if (!why_.empty()) return true;
  try {
    std::optional<Packet> packet = channel_.receive(std::chrono::milliseconds(0));
    if (packet && packet->type == PacketType::aborted) {
      why_ = decode<AbortMessage>(packet->body).why;
    } else if (packet) {
      early_.push_back(std::move(*packet));
    }
  } catch (const ChannelClosed&) {
    why_ = kDaemonEnded;
  }
  return !why_.empty();
}

void DaemonLine::throw_aborted() const {
  throw Refusal(Failure::destination_refused, "the restore was ended there: " + why_);
}

}  // namespace rfork::session
