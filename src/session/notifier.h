// Events as UDP datagrams, for `rforkctl monitor` on some host.
//
// A datagram may be lost, and nobody answers: the events' numbers tell who listens that one is not
// there. Nothing here waits, so that a daemon is never held up by a listener.
#pragma once

#include <vector>

#include "net/datagrams.h"
#include "session/event_line.h"

namespace rfork::session {

class Notifier {
 public:
  /// Looks the names up, once. Throws Refusal(usage) when there is no such host.
  explicit Notifier(const std::vector<net::Address>& listeners);
  void tell(const HostEvent& event);

 private:
  struct Listener {
    net::DatagramSender sender;
    bool reached = true;  ///< the last datagram could be sent
  };
  std::vector<Listener> listeners_;
};

}  // namespace rfork::session
