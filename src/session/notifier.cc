#include "session/notifier.h"

#include <spdlog/spdlog.h>

#include <cstring>

namespace rfork::session {

Notifier::Notifier(const std::vector<net::Address>& listeners) {
  for (const net::Address& address : listeners)
    listeners_.push_back({net::DatagramSender(address)});
}

void Notifier::tell(const HostEvent& event) {
  if (listeners_.empty()) return;
  const std::string line = event_line(event) + "\n";
  for (Listener& one : listeners_) {
    const int error = one.sender.send(line);
    // Once, and not for each.
    if (error != 0 && one.reached) {
      spdlog::warn("--notify {}: {}", one.sender.address().text(), strerror(error));
    }
    one.reached = error == 0;
  }
}

}  // namespace rfork::session
