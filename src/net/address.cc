#include "net/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "base/error.h"

namespace rfork::net {

namespace {

constexpr std::string_view kSsh = "ssh:";

[[noreturn]] void refuse(std::string_view text, std::string_view why) {
  const bool ssh = text.starts_with(kSsh);
  throw Refusal(Failure::usage, fmt::format("'{}' is no address: {}", text, why),
                ssh ? "write ssh:HOST, ssh:USER@HOST or ssh:USER@HOST:PORT"
                    : "write HOST, HOST:PORT, [IPV6]:PORT or ssh:USER@HOST");
}

uint16_t parse_port(std::string_view text, std::string_view port, PortRule rule) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  const unsigned least = rule == PortRule::bindable ? 0 : 1;
  if (error != std::errc{} || end != port.data() + port.size() || value < least || value > 65535) {
    refuse(text, fmt::format("'{}' is no port from {} to 65535", port, least));
  }
  return static_cast<uint16_t>(value);
}

/// A host, and a port as it was written.
struct Place {
  std::string_view host;
  std::optional<std::string_view> port;
};

/// `place` is what `text` has of it.
Place split(std::string_view text, std::string_view place) {
  if (place.starts_with('[')) {
    const size_t close = place.find(']');
    if (close == std::string_view::npos) refuse(text, "']' is missing");
    const std::string_view rest = place.substr(close + 1);
    if (!rest.empty() && rest[0] != ':') refuse(text, "only :PORT may follow ']'");
    const std::string_view host = place.substr(1, close - 1);
    return rest.empty() ? Place{host, std::nullopt} : Place{host, rest.substr(1)};
  }
  const size_t colon = place.find(':');
  // Several colons without brackets: an IPv6 number.
  const bool has_port =
      colon != std::string_view::npos && place.find(':', colon + 1) == std::string_view::npos;
  if (!has_port) return {place, std::nullopt};
  return {place.substr(0, colon), place.substr(colon + 1)};
}

void check_host(std::string_view text, std::string_view host) {
  if (host.empty()) refuse(text, "it names no host");
  for (const char c : host) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '/' || c == '@') {
      refuse(text, "a host's name has no blanks, '/' or '@'");
    }
  }
}

Address parse_ssh(std::string_view text) {
  std::string_view place = text.substr(kSsh.size());
  std::string_view user;
  // The last one, as ssh(1) does: a user's name may be that of an account elsewhere.
  if (const size_t at = place.rfind('@'); at != std::string_view::npos) {
    user = place.substr(0, at);
    place = place.substr(at + 1);
    if (user.empty()) refuse(text, "it names no user before '@'");
    for (const char c : user) {
      if (static_cast<unsigned char>(c) <= ' ') refuse(text, "a user's name has no blanks");
    }
  }
  const auto [host, port] = split(text, place);
  check_host(text, host);
  // ssh would take it for an option, and its options run programs.
  if (host.starts_with('-') || user.starts_with('-')) refuse(text, "a name doesn't begin with '-'");
  if (user.empty() && !port && host.find_first_not_of("0123456789") == std::string_view::npos) {
    refuse(text, "it may be a port of a host named ssh, which [ssh]:PORT is");
  }
  Address address{std::string(host), 0, Address::Way::ssh, std::string(user)};
  if (port) address.port = parse_port(text, *port, PortRule::connectable);
  return address;
}

}  // namespace

std::string Address::text() const {
  const bool brackets = host.find(':') != std::string::npos || (way == Way::tcp && host == "ssh");
  const std::string place = brackets ? fmt::format("[{}]", host) : host;
  const std::string with_port =
      port == 0 && way == Way::ssh ? place : fmt::format("{}:{}", place, port);
  if (way == Way::tcp) return with_port;
  return user.empty() ? fmt::format("ssh:{}", with_port)
                      : fmt::format("ssh:{}@{}", user, with_port);
}

Address parse_address(std::string_view text, PortRule rule) {
  if (text.starts_with(kSsh) && rule == PortRule::connectable) return parse_ssh(text);
  const auto [host, port] = split(text, text);
  check_host(text, host);
  Address address{std::string(host), kDefaultPort};
  if (port) address.port = parse_port(text, *port, rule);
  if (!port && rule == PortRule::required) refuse(text, "it has no port");
  return address;
}

bool is_loopback(const Address& address) {
  if (address.host == "localhost") return true;
  in_addr four{};
  if (inet_pton(AF_INET, address.host.c_str(), &four) == 1) {
    return (ntohl(four.s_addr) >> 24) == 127;
  }
  in6_addr six{};
  if (inet_pton(AF_INET6, address.host.c_str(), &six) != 1) return false;
  if (IN6_IS_ADDR_LOOPBACK(&six)) return true;
  return IN6_IS_ADDR_V4MAPPED(&six) && six.s6_addr[12] == 127;
}

}  // namespace rfork::net
