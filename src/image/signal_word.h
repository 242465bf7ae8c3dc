// Signals by the names of signal(7).
#pragma once

#include <string>

namespace rfork::image {

/// `SIGUSR1`, `SIGRTMIN+2`.
std::string signal_word(int signal);

}  // namespace rfork::image
