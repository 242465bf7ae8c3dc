// The socket options that a process can both ask for and set, by the names of their man pages: what
// is captured of a socket, and set again.
//
// A value that a new socket has already isn't set, so nothing depends on what either host's
// defaults are. Left out is what can only be asked for (SO_ERROR, TCP_INFO), what is a state of
// the moment (TCP_QUICKACK), and what no call gives back (SO_ATTACH_REUSEPORT_CBPF, TCP_MD5SIG).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace rfork::image {

struct SocketOptionKind {
  /// When it is set.
  enum class Time : uint8_t {
    first,   ///< before bind(2): decides whether and where the socket may be bound, or what fits
    normal,  ///< when the socket is connected and filled
    last,    ///< after all others and the filter: forbids changes
  };
  /// What its value is.
  enum class Form : uint8_t {
    plain,      ///< bytes
    buffer,     ///< a buffer's size, which is read as twice what was set: socket(7)
    interface,  ///< an interface's index: in the image its name
    interface_in_network_order,
  };
  const char* name;
  int level, option;
  uint16_t size;  ///< bytes at most
  Time time = Time::normal;
  Form form = Form::plain;
  bool tuning = false;  ///< without it the program works all the same
};

/// In SocketMessage::credentials: the process itself, whatever pid it has.
inline constexpr int32_t kOwnPid = -1;

std::span<const SocketOptionKind> socket_options();
/// nullptr: there is none of that name.
const SocketOptionKind* find_socket_option(std::string_view name);

}  // namespace rfork::image
