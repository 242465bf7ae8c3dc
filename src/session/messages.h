// The bodies of messages: plain structs here, CBOR on the wire.
//
// Decoding is strict: a body must be one CBOR map, nested no deeper than the struct, with exactly
// the members of its struct, each of its type and range. The protocol's version stands in the
// preface, so a member that this version doesn't know is a fault and not a feature.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/io.h"
#include "session/child_info.h"
#include "session/event_line.h"
#include "session/event_ring.h"
#include "session/offer.h"

namespace rfork::session {

// Client to daemon.

struct OfferMessage {
  std::string move_id;
  Offer offer;
};

struct EndMessage {
  uint64_t image_bytes = 0;  ///< all that was sent in DATA, or written into the spool
};

struct AbortMessage {
  std::string why;
};

struct MoveQuestion {
  std::string move_id;
};

/// WAIT, REMOVE.
struct ChildQuestion {
  std::string id;
};

struct LogsQuestion {
  std::string id;
  bool follow = false;
  uint64_t offset = 0;  ///< bytes of it that are known already
};

struct EventsQuestion {
  std::string id;  ///< of a child; empty: all
  bool follow = false;
};

struct KillOrder {
  std::string id;
  int32_t signal = 0;
};

/// A signal to the child.
struct SignalMessage {
  int32_t signal = 0;
  std::vector<uint8_t> info;  ///< siginfo_t, if its sender gave it one (sigqueue(3)); else empty
  uint32_t terminal = 0;      ///< stream of the terminal that made it of a key; 0: none
  bool orphaned = false;      ///< it came to an orphaned process group
};

/// The child stopped, went on or ended.
struct ChildStateMessage {
  int32_t wait_status = 0;  ///< as wait(2) gives it
};

// Daemon to client: Answer, Judgement, Ready, Running, Resolution, ChildInfo, HostEvent, and

/// Events that were overwritten before they could be given.
struct MissedMessage {
  std::string host;
  uint64_t count = 0;
};

struct RefusedMessage {
  std::vector<Reason> reasons;
};

// Worker to daemon and back, on their socket pair.

/// A restore begins; the daemon answers with the descriptor of its log.
struct Announcement {
  ChildInfo child;  ///< id, state and pids are not known yet
};

/// The child-to-be stands ready; the packet carries its pidfd.
struct Standing {
  pid_t pid = 0;
  pid_t wait_pid = 0;  ///< of the process that the daemon will have to wait for
  pid_t inner_pid = 0;
};

// Of an attended child, whose worker is its parent.

/// It stopped, went on or ended.
struct ChangeReport {
  std::string id;
  int32_t wait_status = 0;  ///< the child's own
};

struct SignalReport {
  std::string id;
  int32_t signal = 0;
};

/// Its ghost can't be reached any more.
struct LostReport {
  std::string id;
  std::string reason;
};

/// What it used in all.
struct UseReport {
  std::string id;
  ResourceUse use;
};

/// Answered by EventsPart.
struct EventsAfter {
  uint64_t after = 0;  ///< those with larger numbers
  std::string id;      ///< of a child; empty: all
  bool wait = false;   ///< until there is one
};

struct ListQuestion {
  uint64_t after = 0;  ///< children with larger numbers
};

struct ListPart {
  std::vector<ChildInfo> children;
  bool more = false;
};

/// Throws Refusal(connection_lost) that names MESSAGE and the member when `body` is not one.
template <typename Message>
Message decode(std::span<const std::byte> body);

template <typename Message>
Bytes encode(const Message& message);

/// Whether it can be a move's id: 32 lower-case hexadecimal digits.
bool is_move_id(std::string_view text);
/// A random one.
std::string make_move_id();

}  // namespace rfork::session
