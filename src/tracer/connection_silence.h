// TCP connections to elsewhere whose address moves to another host: silent from the moment in which
// they are read until the address has gone, so that nothing is acknowledged which the image hasn't.
//
// The original's sockets stay as they are: nothing of the silence is in them (base/tcp_silence.h),
// and repair mode, by which they are read, is over at once. Whoever watches over the move has the
// sockets before that begins, so that it ends repair mode if we die in between.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/tcp_silence.h"
#include "tracer/capture.h"

namespace rfork::tracer {

struct Inventory;

class ConnectionSilence {
 public:
  /// Before the process is frozen. Throws Refusal(cannot_carry) with all that stands in the way of
  /// any of its connections, or of silencing them here.
  explicit ConnectionSilence(const Examination& examination);

  /// Called with the netlink socket whose last holder ends the silence, and the connections, when
  /// they are silent and before anything else is done with them. `stopped`: the process was, by
  /// job control.
  std::function<void(int netlink, bool stopped, const std::vector<KeptSocket>& sockets)> witness;

  /// Silences the connections that the inventory of the frozen process keeps.
  void begin(const Inventory& inventory, bool stopped);
  /// Reads them; what can't be read becomes an obstacle. The process must not run even if we die:
  /// it would meet repair mode. `glance`: only marks them as to be remade, and needs no silence.
  void read(Inventory& inventory, bool glance) const;

 private:
  pid_t pid_;
  TcpSilence silence_;
};

}  // namespace rfork::tracer
