#include "image/signal_word.h"

#include <fmt/format.h>

#include <cstring>

namespace rfork::image {

std::string signal_word(int signal) {
  // The kernel's first real-time signal is 32; libc keeps two for itself and calls 34 SIGRTMIN.
  if (signal >= 34 && signal <= 64) {
    return signal == 34 ? "SIGRTMIN" : fmt::format("SIGRTMIN+{}", signal - 34);
  }
  const char* name = signal > 0 ? ::sigabbrev_np(signal) : nullptr;
  return name == nullptr ? fmt::format("signal {}", signal) : fmt::format("SIG{}", name);
}

}  // namespace rfork::image
