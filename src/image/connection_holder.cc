#include "image/connection_holder.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/socket_option.h"

namespace rfork::image {

namespace {

constexpr int kSocketCookie = 57;  // SO_COOKIE

std::pair<sockaddr_un, socklen_t> abstract_address(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t size = std::min(name.size(), sizeof address.sun_path - 1);
  std::copy_n(name.begin(), size, address.sun_path + 1);
  return {address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size)};
}

std::vector<UniqueFd> take_passed(msghdr& header) {
  std::vector<UniqueFd> passed;
  for (cmsghdr* one = CMSG_FIRSTHDR(&header); one != nullptr; one = CMSG_NXTHDR(&header, one)) {
    if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(one) + i * sizeof fd, sizeof fd);
      passed.emplace_back(fd);
    }
  }
  return passed;
}

}  // namespace

bool send_to_holder(int socket, const HolderMessage& message, const std::vector<int>& passed,
                    int flags) {
  iovec vector{const_cast<HolderMessage*>(&message), sizeof message};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMostHeldAtOnce)> control{};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  if (!passed.empty()) {
    const size_t size = sizeof(int) * passed.size();
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(size);
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(rights), passed.data(), size);
  }
  ssize_t n = 0;
  do {
    n = ::sendmsg(socket, &header, flags | MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  return n == static_cast<ssize_t>(sizeof message);
}

std::optional<ReceivedHolderMessage> receive_of_holder(int socket, int flags) {
  ReceivedHolderMessage received;
  iovec vector{&received.message, sizeof received.message};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMostHeldAtOnce)> control{};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t n = 0;
  do {
    n = ::recvmsg(socket, &header, flags | MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return std::nullopt;
  received.passed = take_passed(header);
  if (n == 0) {
    errno = 0;
    return std::nullopt;
  }
  const HolderMessage& message = received.message;
  if (n != static_cast<ssize_t>(sizeof message) || message.magic != HolderMessage::kMagic ||
      message.count > kMostHeldAtOnce || (header.msg_flags & MSG_CTRUNC) != 0) {
    errno = EPROTO;
    return std::nullopt;
  }
  return received;
}

UniqueFd holder_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) throw_errno("socket");
  return fd;
}

int bind_holder(int socket, const std::string& name) {
  const auto [address, size] = abstract_address(name);
  return ::bind(socket, reinterpret_cast<const sockaddr*>(&address), size) == 0 ? 0 : errno;
}

int connect_to_holder(int socket, const std::string& name) {
  const auto [address, size] = abstract_address(name);
  return ::connect(socket, reinterpret_cast<const sockaddr*>(&address), size) == 0 ? 0 : errno;
}

uint64_t own_network_namespace() {
  struct stat status {};
  return ::stat("/proc/self/ns/net", &status) == 0 ? status.st_ino : 0;
}

uint64_t socket_cookie(int socket) {
  return socket_option<uint64_t>(socket, SOL_SOCKET, kSocketCookie).value_or(0);
}

}  // namespace rfork::image
