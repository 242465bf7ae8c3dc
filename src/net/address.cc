#include "net/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>

#include "base/error.h"

namespace rfork::net {

namespace {

[[noreturn]] void refuse(std::string_view text, std::string_view why) {
  throw Refusal(Failure::usage, fmt::format("'{}' is no address: {}", text, why),
                "write HOST, HOST:PORT or [IPV6]:PORT");
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

}  // namespace

std::string Address::text() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

Address parse_address(std::string_view text, PortRule rule) {
  std::string_view host = text;
  std::string_view port;
  bool has_port = false;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) refuse(text, "']' is missing");
    host = text.substr(1, close - 1);
    const std::string_view rest = text.substr(close + 1);
    if (!rest.empty() && rest[0] != ':') refuse(text, "only :PORT may follow ']'");
    has_port = !rest.empty();
    if (has_port) port = rest.substr(1);
  } else if (const size_t colon = text.find(':'); colon != std::string_view::npos) {
    if (text.find(':', colon + 1) == std::string_view::npos) {
      host = text.substr(0, colon);
      port = text.substr(colon + 1);
      has_port = true;
    }  // several colons without brackets: an IPv6 number
  }
  if (host.empty()) refuse(text, "it names no host");
  for (const char c : host) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '/' || c == '@') {
      refuse(text, "a host's name has no blanks, '/' or '@'");
    }
  }
  Address address{std::string(host), kDefaultPort};
  if (has_port) address.port = parse_port(text, port, rule);
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
