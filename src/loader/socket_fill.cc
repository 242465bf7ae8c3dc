// Fills sockets with what was queued in them.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>

#include "loader/internet_name.h"
#include "loader/socket_queue.h"
#include "loader/socket_settings.h"
#include "loader/sockets.h"

namespace rfork::loader {

using image::Socket;

namespace {

/// Whether what the socket sends may come from `name`.
bool speaks_as(const Socket& socket, const Bytes& name) {
  if (socket.name == name) return true;
  const bool internet = socket.family == AF_INET || socket.family == AF_INET6;
  return internet && !socket.name.empty() && port_of(socket.name) == port_of(name) &&
         is_any_address(socket.name);
}

}  // namespace

SocketMaker::Made* SocketMaker::own_with_name(const Bytes& name, const Made& receiver) {
  for (auto& [id, one] : made_) {
    if (one.bound.fd && speaks_as(one.socket, name) && one.socket.type == receiver.socket.type &&
        !one.socket.listening) {
      return &one;
    }
  }
  return nullptr;
}

/// From each sender's own name.
int SocketMaker::send_as_sender(Made& one, const image::SocketMessage& message,
                                std::span<const int> passed) {
  Made* const own = message.from.empty() ? nullptr : own_with_name(message.from, one);
  BoundSocket lent;
  if (own == nullptr) {
    lent.fd.reset(::socket(AF_UNIX, one.socket.type | SOCK_CLOEXEC, 0));
    make_room(lent.fd.get(), message.data.size());
    if (!message.from.empty()) {
      if (const int error = names_.lend(lent.fd.get(), message.from, lent.reach); error != 0) {
        return error;
      }
    }
    // Connected, so that paths of any length will do; it has no peer that would be told of its end.
    const int error = connect_to(lent.fd.get(), one.bound, one.socket.name);
    return error != 0 ? error : send_message(lent.fd.get(), message, passed);
  }
  if (one.bound.reach.empty()) {
    return send_message(own->fd(), message, passed, one.socket.name);
  }
  const UniqueFd file(::open(one.bound.reach.c_str(), O_PATH | O_CLOEXEC));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string link = fmt::format("/proc/self/fd/{}", file.get());
  std::memcpy(address.sun_path, link.data(), link.size());
  const auto* const start = reinterpret_cast<const std::byte*>(&address);
  return send_message(own->fd(), message, passed, Bytes(start, start + sizeof address));
}

/// Whether the child itself has to send what is to be in it.
bool SocketMaker::child_fills(const Made& one) const {
  if (!is_pair(one) || !made_.contains(one.description->other)) return false;
  const auto passes = [](const auto& message) { return !message.descriptions.empty(); };
  if (std::ranges::any_of(one.socket.messages, passes)) return false;
  if (one.number < 0 || made_.at(one.description->other).number < 0) return false;
  return std::ranges::any_of(one.socket.messages, [](const image::SocketMessage& message) {
    ucred sender{};
    if (message.credentials.size() != sizeof sender) return false;
    std::memcpy(&sender, message.credentials.data(), sizeof sender);
    return sender.pid == image::kOwnPid;
  });
}

bool SocketMaker::child_fills_either(const Made& one) const {
  const auto other = made_.find(one.description->other);
  return child_fills(one) || (other != made_.end() && child_fills(other->second));
}

void SocketMaker::add_messages(PlanWriter& plan) const {
  for (const auto& [id, one] : made_) {
    if (!child_fills(one)) continue;
    const auto sender = static_cast<uint64_t>(made_.at(one.description->other).number);
    for (const image::SocketMessage& message : one.socket.messages) {
      // Who receives wants to be told who it is from (SO_PASSCRED), so the kernel notes that.
      plan.call(
          SYS_sendto,
          {sender, plan.data(message.data), message.data.size(), MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0},
          fmt::format("fill {}", one.words()), static_cast<int64_t>(message.data.size()));
    }
  }
  for (const auto& [id, one] : made_) {
    if ((one.description->shut & 2) == 0 || !child_fills_either(one)) continue;
    plan.call(SYS_shutdown, {static_cast<uint64_t>(one.number), SHUT_WR},
              fmt::format("shut {} down", one.words()));
  }
}

int SocketMaker::send_to(Made& one, const image::SocketMessage& message,
                         std::span<const int> passed) {
  if (is_tcp_connection(one)) {
    const int sender = one.gone ? one.gone.get() : made_.at(one.description->other).fd();
    return send_stream(sender, one.fd(), message.data);
  }
  if (one.socket.family != AF_UNIX) {
    Made* const own = own_with_name(message.from, one);
    return send_datagram(one.fd(), one.socket, message, own == nullptr ? -1 : own->fd())
               ? 0
               : EADDRNOTAVAIL;
  }
  if (!is_pair(one)) return send_as_sender(one, message, passed);
  const auto other = made_.find(one.description->other);
  return send_message(one.gone ? one.gone.get() : other->second.fd(), message, passed);
}

/// What the child itself sends is from it.
void SocketMaker::say_whose(const Made& one) {
  const bool by_child = child_fills(one);
  const auto unsaid = std::ranges::count_if(one.socket.messages, [&](const auto& message) {
    return is_of_another(message) && (by_child || !may_speak_as_sender(message));
  });
  if (unsaid == 0) return;
  findings_.warn(
      fmt::format("{} of {} messages in {} don't tell any more which other process sent them "
                  "(SCM_CREDENTIALS)",
                  unsaid, one.socket.messages.size(), one.words()));
}

void SocketMaker::fill(Made& one, const std::function<int(uint32_t)>& descriptor) {
  if (one.socket.messages.empty()) return;
  say_whose(one);
  if (child_fills(one)) return;
  size_t lost = 0;
  for (const image::SocketMessage& message : one.socket.messages) {
    std::vector<int> passed;
    for (const uint32_t id : message.descriptions) passed.push_back(descriptor(id));
    const int error = send_to(one, message, passed);
    if (error == 0) continue;
    const bool stream = is_tcp_connection(one);
    if (one.socket.family != AF_UNIX && !stream) {
      ++lost;
      continue;
    }
    findings_.refuse(
        fmt::format("{} of {} bytes can't be put into {} again: {}", stream ? "data" : "a message",
                    message.data.size(), one.words(), std::strerror(error)),
        fmt::format("see /proc/sys/{}, or {}",
                    stream ? "net/ipv4/tcp_rmem and tcp_wmem"
                           : "net/core/wmem_default and net/unix/max_dgram_qlen",
                    drop_advice(one.number)));
    return;
  }
  if (lost == 0) return;
  findings_.warn(
      fmt::format("{} of {} datagrams that {} had not read yet are lost: they can't be "
                  "put back as from where they came",
                  lost, one.socket.messages.size(), one.words()));
}

}  // namespace rfork::loader
