// The bytes of pipes, sockets and terminals that lead from one host to another. Both ends of a
// connection have the same object: the ghost's holds the origin's ends, the child's agent the
// other ends of what the child was given instead.
//
// Each direction of a stream is numbered by its bytes. A sender keeps no more than a window of what
// hasn't reached the other side's end, so a slow reader stops the writer, as a pipe that is full.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/byte_queue.h"
#include "base/unique_fd.h"
#include "image/model.h"
#include "net/frame.h"
#include "session/frame_pump.h"
#include "session/other_holders.h"

namespace rfork::session {

/// Before the bytes of a RELAY: stream and offset.
inline constexpr size_t kRelayHeadSize = 12;

class Relays {
 public:
  /// Whether what leads to the other end of a socket stream's `fd` is open still. At the origin
  /// only the kernel knows, and a hang-up is taken for a close.
  using IsOpen = std::function<bool(uint32_t id)>;
  explicit Relays(FramePump& pump, IsOpen is_open = {})
      : pump_(pump), is_open_(std::move(is_open)) {}

  /// How a source is read.
  enum class Reading {
    eagerly,   ///< what comes is sent on
    on_demand  ///< what somebody is known to read on the other side, as long as others read it, too
  };
  /// `fd` is read from when `source`, written to when `sink`. Non-blocking, or a socket.
  void add(uint32_t id, UniqueFd fd, bool source, bool sink, bool socket,
           Reading reading = Reading::eagerly);

  /// Appends what is waited for; handle() must get the same entries back.
  void add_polls(std::vector<pollfd>& polls);
  /// Moves bytes where poll(2) said that it can be done.
  void handle(std::span<const pollfd> polls);
  /// Whether frames of this type are take()'s.
  static bool takes(net::FrameType type);
  /// A frame of one of the relay types. Throws Refusal(connection_lost) when it makes no sense.
  void take(net::FrameType type, std::span<const std::byte> body);
  /// Reads all that can be read at once from every source: the child has ended.
  void drain();

  /// Streams whose source has something to read that nobody has been seen to want.
  std::vector<uint32_t> unwanted() const;
  /// Reads `id` no more, or again: a terminal is somebody else's for a while.
  void hold(uint32_t id, bool held);
  /// The window of terminal `id` has a size; the other side sets it.
  void tell_window(uint32_t id, uint64_t size);
  /// The child's terminal `id` has the modes (struct termios2) of these bytes.
  void tell_modes(uint32_t id, std::span<const std::byte> modes);
  /// Whether what came of `id` has not been read by who has the other end.
  bool has_unread(uint32_t id) const;
  /// Tells the other side that somebody waits for so many bytes of `id` here.
  void want(uint32_t id, size_t bytes);
  /// Streams that wait for who wants them go on by themselves when nobody else is left to read
  /// them. Gives how long to wait until the next look, in ms; -1: there is none to be taken.
  int look_who_shares();

  /// Whether something waits to be read by who has the other end, before that may see its end. To
  /// be asked again: nobody tells of it.
  bool look_whether_read();

  /// Whether something was asked for that nobody here reads any more: it will be given back.
  bool awaits_answer() const;
  /// Bytes that came and have not been written yet.
  bool has_undelivered() const;
  /// Some of them for a terminal: what others write there later must stand behind them.
  bool terminal_is_behind() const;
  /// No source and no sink is open any more.
  bool all_closed() const;

 private:
  using Clock = std::chrono::steady_clock;

  struct Stream {
    UniqueFd fd;
    bool socket = false;
    bool terminal = false;
    bool tcp = false;    ///< a socket whose connection may be reset
    size_t at_once = 0;  ///< bytes that a blocking `fd` takes when it is ready; 0: it doesn't block
    // From here to there.
    bool source = false;
    bool on_demand = false;  ///< others may read it
    bool held = false;
    bool announced = false;  ///< and the other side knows that there is something
    std::optional<OtherHolders> others;
    Clock::time_point look_at;
    std::chrono::milliseconds look_pause{};
    bool lent = false;       ///< the other side has bytes of it that it may give back
    bool was_reset = false;  ///< the connection
    bool discards = false;  ///< what comes: its reader on the other side was reset, and will say so
    uint64_t sent = 0, acknowledged = 0;
    // From there to here.
    bool sink = false;
    std::optional<OtherHolders> writers;  ///< of a pipe that others may write, too
    size_t until_look = 0;                ///< bytes to write before it is asked again
    size_t look_every = 64u << 10;        ///< and then so many; most let go of theirs at once
    bool offered = false;                 ///< there is something to read that was not sent
    bool asked = false;                   ///< for some of it, and no answer has come
    bool shared = false;  ///< it was offered once: what nobody reads here is another's
    ByteQueue pending;
    uint64_t received = 0, written = 0, reported = 0;
    bool ended = false;   ///< nothing comes behind `received`
    bool closed = false;  ///< by the last who had it there; `ended` too
    bool resets = false;  ///< as the other side's connection was: at the end
  };

  void read_source(uint32_t id, Stream& stream);
  void read_wanted(uint32_t id, Stream& stream, size_t bytes);
  void read_some(uint32_t id, Stream& stream, size_t most);
  bool leave_to_others(uint32_t id, Stream& stream);
  void take_bytes(uint32_t id, Stream& stream, std::span<const std::byte> bytes);
  void stop_reading(Stream& stream, bool shut);
  void give_back(uint32_t id, Stream& stream, std::span<const std::byte> bytes);
  void tell_broken(uint32_t id, Stream& stream, bool closed);
  std::span<const std::byte> write_some(uint32_t id, Stream& stream,
                                        std::span<const std::byte> bytes);
  void write_sink(uint32_t id, Stream& stream);
  void end_source(uint32_t id, Stream& stream);
  void break_sink(uint32_t id, Stream& stream);
  void tell_closed(uint32_t id, Stream& stream);
  bool other_end_closed(uint32_t id, const Stream& stream) const;
  void take_broken(uint32_t id, Stream& stream, bool shut, std::span<const std::byte> bytes);
  void take_closed(uint32_t id, Stream& stream, bool reset);
  bool forgets(const Stream& stream) const;
  static bool may_come_back(const Stream& stream);
  void close_if_idle(Stream& stream);
  bool may_read(const Stream& stream) const;
  static size_t whole_at_once(Stream& stream, std::span<const std::byte> bytes);

  FramePump& pump_;
  IsOpen is_open_;
  std::map<uint32_t, Stream> streams_;
  std::vector<std::pair<uint32_t, size_t>> polled_;  ///< stream, number of its entry
};

}  // namespace rfork::session
