// What the targets with sockets share.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>

#include "target.h"

namespace sockets {

inline sockaddr_un unix_address(const std::string& path, socklen_t& size) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  // An abstract name starts with NUL and has no end but its size.
  size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() +
                                (path[0] == '\0' ? 0 : 1));
  return address;
}

inline void bind_unix(int fd, const std::string& path) {
  socklen_t size;
  const sockaddr_un address = unix_address(path, size);
  MUST(bind(fd, reinterpret_cast<const sockaddr*>(&address), size));
}

inline int connect_unix(int fd, const std::string& path) {
  socklen_t size;
  const sockaddr_un address = unix_address(path, size);
  return connect(fd, reinterpret_cast<const sockaddr*>(&address), size);
}

/// The name that getsockname or getpeername gives, without the family.
inline std::string unix_name(int fd, decltype(getsockname)* ask = getsockname) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  MUST(ask(fd, reinterpret_cast<sockaddr*>(&address), &size));
  if (size <= offsetof(sockaddr_un, sun_path)) return "";
  std::string name(address.sun_path, size - offsetof(sockaddr_un, sun_path));
  if (!name.empty() && name[0] != '\0') name = name.c_str();
  return name;
}

/// One message; "-" and the error when there is none.
inline std::string receive(int fd, std::string* from = nullptr) {
  char bytes[4096];
  sockaddr_un address{};
  socklen_t size = sizeof address;
  const ssize_t n =
      recvfrom(fd, bytes, sizeof bytes, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&address), &size);
  if (n < 0) return std::string("-") + strerrorname_np(errno);
  if (from != nullptr) {
    *from = size > offsetof(sockaddr_un, sun_path)
                ? std::string(address.sun_path, size - offsetof(sockaddr_un, sun_path))
                : "";
    if (!from->empty() && (*from)[0] != '\0') *from = from->c_str();
  }
  return {bytes, static_cast<size_t>(n)};
}

inline void say(int fd, const std::string& text) {
  EXPECT_EQ(send(fd, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL), text.size());
}

inline void set(int fd, int level, int option, int value) {
  MUST(setsockopt(fd, level, option, &value, sizeof value));
}

inline int get(int fd, int level, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  MUST(getsockopt(fd, level, option, &value, &size));
  return value;
}

inline short ready_for(int fd) {
  pollfd one{fd, POLLIN | POLLOUT | POLLRDHUP, 0};
  MUST(poll(&one, 1, 0));
  return one.revents;
}

}  // namespace sockets
