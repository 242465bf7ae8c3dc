// Connections of TCP that one side has reset, or only closed: what the other side sees of it.
//
// The child's end is one of TCP too. Unlike a unix socket's it can't be told that nobody reads it
// any more but by a reset, which takes its input away as well; so as long as something comes for
// it, what it writes is read and forgotten.
#include "session/relay_frames.h"
#include "session/relay_io.h"
#include "session/relays.h"

namespace rfork::session {

/// The other side's reader is gone. `shut`: others have the socket still, who asked for it.
void Relays::take_broken(uint32_t id, Stream& stream, bool shut, std::span<const std::byte> bytes) {
  stream.lent = false;
  if (!forgets(stream)) {
    stop_reading(stream, shut);
    return give_back(id, stream, bytes);
  }
  if (!shut) {  // RELAY_CLOSED follows
    stream.discards = true;
    return;
  }
  stream.resets = true;
  tell_closed(id, stream);
}

/// The other side's end is gone. If it was reset, so is this one, unless others have it here, once
/// all has left that came before.
void Relays::take_closed(uint32_t id, Stream& stream, bool reset) {
  stream.discards = forgets(stream);
  if (!stream.discards) stop_reading(stream, false);
  stream.ended = stream.closed = true;
  stream.asked = false;
  if (reset && stream.tcp && stream.fd) {
    stream.resets = is_open_ || !OtherHolders(stream.fd.get(), true).exist();
  }
  if (stream.sink) return write_sink(id, stream);
  stream.source = false;
}

/// Whether what the child still writes to it is read, to be forgotten.
bool Relays::forgets(const Stream& stream) const {
  return stream.tcp && is_open_ && stream.source;
}

void Relays::close_if_idle(Stream& stream) {
  if (stream.source || stream.sink || stream.lent || !stream.fd) return;
  if (stream.resets) reset_at_close(stream.fd.get());
  stream.fd.reset();
}

}  // namespace rfork::session
