// getsockopt(2) with a type.
#pragma once

#include <sys/socket.h>

#include <optional>

namespace rfork {

/// The option's value; nullopt, with errno set, when the kernel doesn't tell it.
template <typename T>
std::optional<T> socket_option(int fd, int level, int option) {
  T value{};
  socklen_t size = sizeof value;
  if (::getsockopt(fd, level, option, &value, &size) != 0) return std::nullopt;
  return value;
}

}  // namespace rfork
