// Where a daemon is, as people type it: HOST, HOST:PORT, [IPV6] or [IPV6]:PORT for one that
// listens; the same after `ssh:` or `ssh:USER@` for one that ssh(1) is to start.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rfork::net {

inline constexpr uint16_t kDefaultPort = 7411;

/// A host by name or number, and how it is reached. Nothing is looked up here.
struct Address {
  enum class Way { tcp, ssh };

  std::string host;              ///< without brackets; for ssh also an alias of its configuration
  uint16_t port = kDefaultPort;  ///< ssh: 0 leaves it to ssh
  Way way = Way::tcp;
  std::string user = {};  ///< ssh: empty leaves it to ssh

  /// `10.0.0.2:7411`, `[fe80::1]:7411`, `ssh:ada@host`, `ssh:[fe80::1]:2222`.
  std::string text() const;
};

enum class PortRule {
  connectable,  ///< 1 to 65535
  bindable,     ///< 0 too: the kernel chooses; and no ssh
  required,     ///< 1 to 65535, and it must be there; no ssh
};

/// Throws Refusal(usage) that quotes `text` when it names no host or no valid port.
Address parse_address(std::string_view text, PortRule rule = PortRule::connectable);

/// Whether it is a number in 127.0.0.0/8, ::1, or the name "localhost".
bool is_loopback(const Address& address);

}  // namespace rfork::net
