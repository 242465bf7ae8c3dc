#include "loader/loopback.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/value_in.h"
#include "loader/bind_socket.h"
#include "loader/internet_name.h"

namespace rfork::loader {

namespace {

constexpr int kPatienceMs = 5000;

Bytes ipv4_loopback(int family) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto* const start = reinterpret_cast<const std::byte*>(&name);
  return in_family({start, start + sizeof name}, family);
}

/// A socket that doesn't wait, at this address.
UniqueFd listen_at(const Bytes& name) {
  const auto* const address = reinterpret_cast<const sockaddr*>(name.data());
  UniqueFd fd(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd && ::bind(fd.get(), address, static_cast<socklen_t>(name.size())) == 0 &&
      ::listen(fd.get(), 4) == 0) {
    return fd;
  }
  return {};
}

}  // namespace

Bytes socket_name(int fd, decltype(::getsockname)* ask) {
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  if (ask(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) return {};
  const auto* const start = reinterpret_cast<const std::byte*>(&name);
  return {start, start + size};
}

int connect_within(int fd, const Bytes& name) {
  if (name.empty()) return EAFNOSUPPORT;
  const int error = connect_to_name(fd, name);
  if (error != EINPROGRESS) return error;
  pollfd one{fd, POLLOUT, 0};
  if (::poll(&one, 1, kPatienceMs) != 1) return ETIMEDOUT;
  int result = 0;
  socklen_t size = sizeof result;
  return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &size) == 0 ? result : errno;
}

UniqueFd accept_from(int listening, int client) {
  const Bytes wanted = socket_name(client);
  for (;;) {
    pollfd one{listening, POLLIN, 0};
    if (::poll(&one, 1, kPatienceMs) != 1) return {};
    UniqueFd accepted(::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC));
    if (accepted && same_endpoint(socket_name(accepted.get(), ::getpeername), wanted)) {
      return accepted;
    }
  }
}

std::optional<std::pair<UniqueFd, UniqueFd>> make_loopback_pair(const Bytes& like) {
  const int family = value_in<sockaddr>(like).sa_family;
  for (const Bytes& name : {loopback_name(like), ipv4_loopback(family)}) {
    const UniqueFd listening = listen_at(name);
    if (!listening) continue;
    UniqueFd client(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!client) continue;
    errno = connect_within(client.get(), socket_name(listening.get()));
    if (errno != 0) continue;
    UniqueFd accepted = accept_from(listening.get(), client.get());
    if (accepted) return std::pair(std::move(client), std::move(accepted));
  }
  return std::nullopt;
}

}  // namespace rfork::loader
