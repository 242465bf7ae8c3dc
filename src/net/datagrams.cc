#include "net/datagrams.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace rfork::net {

namespace {

constexpr size_t kMostText = 8192;

using Found = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

/// The first address of a host.
Found look_up(const Address& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(address.port);
  const int error = ::getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) {
    throw Refusal(Failure::usage, fmt::format("{}: {}", address.text(), ::gai_strerror(error)));
  }
  return {found, &::freeaddrinfo};
}

std::string text_of(const sockaddr_storage& address, socklen_t size) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  const int error =
      ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host.data(), host.size(),
                    port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV | NI_DGRAM);
  if (error != 0) return "an unknown sender";
  const std::string number = host.data();
  const bool brackets = number.find(':') != std::string::npos;
  return fmt::format("{}:{}", brackets ? fmt::format("[{}]", number) : number, port.data());
}

}  // namespace

DatagramSender::DatagramSender(Address to) : to_(std::move(to)) {
  const Found found = look_up(to_);
  std::memcpy(&where_, found->ai_addr, found->ai_addrlen);
  where_size_ = found->ai_addrlen;
  socket_.reset(::socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_) throw_errno("socket", to_.text());
}

int DatagramSender::send(std::string_view text) {
  const ssize_t sent = ::sendto(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL,
                                reinterpret_cast<const sockaddr*>(&where_), where_size_);
  return sent < 0 ? errno : 0;
}

DatagramReceiver::DatagramReceiver(const Address& at) {
  const Found found = look_up(at);
  socket_.reset(::socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_) throw_errno("socket", at.text());
  const int room = 4 << 20;  // many hosts may speak at once
  (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (::bind(socket_.get(), found->ai_addr, found->ai_addrlen) != 0) {
    throw Refusal(Failure::usage, fmt::format("{}: {}", at.text(), strerror(errno)));
  }
}

std::optional<Datagram> DatagramReceiver::next() {
  Datagram datagram;
  datagram.text.resize(kMostText);
  sockaddr_storage from{};
  socklen_t from_size = sizeof from;
  const ssize_t size = ::recvfrom(socket_.get(), datagram.text.data(), datagram.text.size(),
                                  MSG_TRUNC, reinterpret_cast<sockaddr*>(&from), &from_size);
  if (size < 0) return std::nullopt;
  datagram.sender = text_of(from, from_size);
  datagram.text.resize(static_cast<size_t>(size) <= kMostText ? static_cast<size_t>(size) : 0);
  return datagram;
}

}  // namespace rfork::net
