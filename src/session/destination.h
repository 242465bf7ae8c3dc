// The client's end of a restore on another host: what rfork-trace calls.
//
//   Destination there(options);             // connects, checks the key
//   Answer answer = there.offer(offer);     // before the freeze; throws Refusal with every reason
//   ...                                     // freeze
//   there.send(image bytes), any number of times
//   Ready ready = there.finish_and_wait_ready();
//   ...                                     // hold the original
//   Running child = there.go();             // it runs
//   ...                                     // end the original
//
// Synchronous, because its caller is a ptracer, which must stay in one thread; coroutines and
// OpenSSL are behind it. Every wait has a deadline and polls `interrupted`.
//
// What the exceptions mean for the original of a move:
//   from anything but go()     no child runs, and none will: the original can go on.
//   Refusal(destination_refused) from go()   the same: the destination said that it did not let it
//   run. anything else from go()    in doubt: the child may run. Keep the original frozen and ask
//   resolve().
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "net/address.h"
#include "net/key.h"
#include "net/link.h"
#include "session/offer.h"

namespace rfork::session {

/// How long each wait may take.
struct Deadlines {
  std::chrono::milliseconds connect{10'000};   ///< name look-up and TCP
  std::chrono::milliseconds handshake{5'000};  ///< preface and TLS
  std::chrono::milliseconds ssh{30'000};       ///< in their place: log-in and preface
  std::chrono::milliseconds answer{
      120'000};  ///< to the offer: the destination may have to digest files
  std::chrono::milliseconds progress{60'000};  ///< without a byte being taken
  std::chrono::milliseconds ready{180'000};    ///< after the last byte
  std::chrono::milliseconds running{30'000};   ///< after GO
};

struct Endpoint {
  net::Address address;
  std::optional<net::Key> key;  ///< none: plain, which a daemon takes on loopback and over ssh only
  Deadlines deadlines;
  /// Polled at least every 50 ms while something is waited for; true throws Refusal(interrupted).
  std::function<bool()> interrupted = [] { return false; };
};

/// One restore, from connect to RUNNING. All errors: Refusal(destination_refused) with the
/// destination's reasons, Refusal(connection_lost) naming the address, Refusal(interrupted).
class Destination {
 public:
  /// Connects and authenticates.
  explicit Destination(Endpoint endpoint);
  /// Closes; a child that has not been let go is ended by the destination.
  ~Destination();
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;

  /// Identifies this restore for resolve(): 32 hexadecimal digits, random.
  const std::string& move_id() const;
  /// `10.0.0.2:7411`.
  std::string name() const;

  Answer offer(const Offer& offer);
  /// In the place of offer(): nothing will be restored. If the judgement goes on, the image's
  /// metadata may follow by send(), and then judge_image().
  Judgement check(const Offer& offer);
  Judgement judge_image();
  /// The next bytes of the image, front to back, in any split (64 KiB to 1 MiB are best). When the
  /// destination gives up in the middle this throws its reasons.
  void send(std::span<const std::byte> image_bytes);
  /// In the place of send(): so many bytes more are in the spool. Tells the destination now and
  /// then that there is still somebody here, and throws its reasons as send() does.
  void spooled(uint64_t size);
  /// After the last byte: waits until the child stands ready.
  Ready finish_and_wait_ready();
  /// Lets the child run.
  Running go();
  /// Tells the destination to end the child-to-be, if it can still be told; never throws.
  void abort() noexcept;

  /// The connection, after go(): for the child's ghost.
  net::Link& link();

  /// Bytes that went over the wire so far, in both directions, before encryption.
  uint64_t wire_bytes() const;

 private:
  struct State;
  net::Frame ask(net::FrameType question, const Offer& offer, net::FrameType expected);

  std::unique_ptr<State> state_;
};

/// Asks the daemon at `endpoint`, on a new connection, what became of `move_id`. If its child was
/// not let go the question itself aborts it, for ever. Throws Refusal(connection_lost) when the
/// daemon can't be asked.
Resolution resolve(const Endpoint& endpoint, const std::string& move_id);

}  // namespace rfork::session
