#include "loader/internet_name.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/value_in.h"
#include "loader/socket_settings.h"

namespace rfork::loader {

namespace {

template <typename Address>
Bytes bytes_of(const Address& address) {
  const auto* const start = reinterpret_cast<const std::byte*>(&address);
  return {start, start + sizeof address};
}

int family_of(const Bytes& name) {
  return value_in<sockaddr>(name).sa_family;
}

sockaddr_in6 as_six(const Bytes& name) {
  if (family_of(name) == AF_INET6) return value_in<sockaddr_in6>(name);
  const auto four = value_in<sockaddr_in>(name);
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = four.sin_port;
  six.sin6_addr.s6_addr16[5] = 0xffff;
  six.sin6_addr.s6_addr32[3] = four.sin_addr.s_addr;
  return six;
}

}  // namespace

Bytes internet_name(const image::Socket& socket, int fd, bool any_address, bool any_port) {
  if (socket.family == AF_INET) {
    auto address = value_in<sockaddr_in>(socket.name);
    if (any_address) address.sin_addr.s_addr = INADDR_ANY;
    if (any_port) address.sin_port = 0;
    return bytes_of(address);
  }
  auto address = value_in<sockaddr_in6>(socket.name);
  if (address.sin6_scope_id != 0) {
    address.sin6_scope_id = static_cast<uint32_t>(interface_index(fd, socket.interface));
  }
  if (any_address) address.sin6_addr = in6addr_any, address.sin6_scope_id = 0;
  if (any_port) address.sin6_port = 0;
  return bytes_of(address);
}

Bytes loopback_name(const Bytes& name) {
  sockaddr_in6 six = as_six(name);
  six.sin6_port = 0;
  six.sin6_scope_id = 0;
  if (IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)) {
    six.sin6_addr.s6_addr32[3] = htonl(INADDR_LOOPBACK);
  } else {
    six.sin6_addr = in6addr_loopback;
  }
  return in_family(bytes_of(six), family_of(name));
}

Bytes in_family(const Bytes& name, int family) {
  const sockaddr_in6 six = as_six(name);
  if (family == AF_INET6) return bytes_of(six);
  if (!IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)) return {};
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_port = six.sin6_port;
  four.sin_addr.s_addr = six.sin6_addr.s6_addr32[3];
  return bytes_of(four);
}

uint16_t port_of(const Bytes& name) {
  return value_in<sockaddr_in>(name).sin_port;  // as in sockaddr_in6
}

void set_port(Bytes& name, uint16_t port) {
  std::memcpy(name.data() + offsetof(sockaddr_in, sin_port), &port, sizeof port);
}

bool is_any_address(const Bytes& name) {
  const sockaddr_in6 six = as_six(name);
  return IN6_IS_ADDR_UNSPECIFIED(&six.sin6_addr) ||
         (IN6_IS_ADDR_V4MAPPED(&six.sin6_addr) && six.sin6_addr.s6_addr32[3] == 0);
}

bool same_endpoint(const Bytes& a, const Bytes& b) {
  const sockaddr_in6 one = as_six(a), other = as_six(b);
  return one.sin6_port == other.sin6_port && IN6_ARE_ADDR_EQUAL(&one.sin6_addr, &other.sin6_addr);
}

}  // namespace rfork::loader
