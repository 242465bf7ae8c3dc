// A descriptor that may be an end of something that leads from the process to itself.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>

namespace rfork::tracer {

struct ChannelEnd {
  pid_t pid = 0;  ///< who has it: the process, or, of what is on its way in a socket, we
  int fd = 0;
  struct stat status {};
  int32_t flags = 0;         ///< fcntl(F_GETFL)
  uint32_t description = 0;  ///< of its open file description
};

}  // namespace rfork::tracer
