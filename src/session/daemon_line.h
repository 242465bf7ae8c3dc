// A worker's end of its channel to the daemon.
#pragma once

#include <deque>
#include <string>

#include "session/channel.h"

namespace rfork::session {

class DaemonLine {
 public:
  explicit DaemonLine(Channel channel) : channel_(std::move(channel)) {}

  /// Asks and waits for the answer, which must be of type `expected`. Throws Refusal with the
  /// daemon's reasons, or when the daemon ended this restore or itself.
  Packet ask(PacketType question, std::span<const std::byte> body, PacketType expected,
             int descriptor = -1);
  /// Tells, and waits for nothing. Throws as ask().
  void tell(PacketType type, std::span<const std::byte> body = {}, int descriptor = -1);
  /// Tells what may come often, of a child that runs: waits until the daemon has room for it, and
  /// does nothing when the daemon has ended.
  void report(PacketType type, std::span<const std::byte> body);
  /// The answer to what was told, if it came within `timeout`. Throws as ask().
  std::optional<Packet> hear(PacketType expected, std::chrono::milliseconds timeout);

  /// Whether the daemon has ended this restore, or itself. Doesn't wait.
  bool aborted();
  /// Throws the Refusal that says why.
  [[noreturn]] void throw_aborted() const;

 private:
  Channel channel_;
  std::deque<Packet> early_;  ///< came while aborted() looked
  std::string why_;           ///< of the abort; empty: none
};

}  // namespace rfork::session
