// UDP: sending without waiting, and receiving.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "net/address.h"

namespace rfork::net {

class DatagramSender {
 public:
  /// Looks the host up. Throws Refusal(usage) when there is none.
  explicit DatagramSender(Address to);
  const Address& address() const { return to_; }
  /// Gives 0, or the errno when it can't be sent at once. Never waits.
  int send(std::string_view text);

 private:
  Address to_;
  sockaddr_storage where_{};
  socklen_t where_size_ = 0;
  UniqueFd socket_;
};

struct Datagram {
  std::string sender;  ///< `10.0.0.3:40112`
  std::string text;    ///< empty when it was longer than what is taken
};

class DatagramReceiver {
 public:
  /// Throws Refusal(usage) when it can't be bound.
  explicit DatagramReceiver(const Address& at);
  /// For poll(2).
  int fd() const { return socket_.get(); }
  /// The next one; nullopt when there is none yet. Never waits.
  std::optional<Datagram> next();

 private:
  UniqueFd socket_;
};

}  // namespace rfork::net
