// Who has a TCP port of this host.
#pragma once

#include <cstdint>

namespace rfork::loader {

/// Whether nothing has it but connections that are closed, and are kept by the kernel for a minute
/// (TIME_WAIT). `port` in network order. False where that can't be known.
bool only_closed_have(uint16_t port);

}  // namespace rfork::loader
