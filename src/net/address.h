// Where a daemon is: HOST, HOST:PORT, [IPV6] or [IPV6]:PORT, as people type it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rfork::net {

inline constexpr uint16_t kDefaultPort = 7411;

/// A host by name or number, and a TCP port. Nothing is looked up here.
struct Address {
  std::string host;  ///< without brackets
  uint16_t port = kDefaultPort;

  /// `10.0.0.2:7411`, `[fe80::1]:7411`.
  std::string text() const;
};

enum class PortRule {
  connectable,  ///< 1 to 65535
  bindable,     ///< 0 too: the kernel chooses
};

/// Throws Refusal(usage) that quotes `text` when it names no host or no valid port.
Address parse_address(std::string_view text, PortRule rule = PortRule::connectable);

/// Whether it is a number in 127.0.0.0/8, ::1, or the name "localhost".
bool is_loopback(const Address& address);

}  // namespace rfork::net
