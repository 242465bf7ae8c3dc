// Descriptors with nothing behind them but a state of the kernel's: eventfd(2), signalfd(2),
// timerfd_create(2), epoll(7). What they hold stands in /proc/PID/fdinfo (proc(5)).
#pragma once

#include <sys/types.h>

#include <string>

#include "image/model.h"

namespace rfork::tracer {

struct KernelObject {
  pid_t pid = 0;
  int fd = 0;
  const std::string& path;  ///< what /proc/PID/fd/N leads to
  const std::string& info;  ///< /proc/PID/fdinfo/N
  bool stopped = false;     ///< the process is: what can only be found out by trying is tried
};

/// Takes over what the descriptor holds. False when it is none of these.
bool describe_kernel_object(const KernelObject& object, image::Description& description);

}  // namespace rfork::tracer
