#include "loader/port_users.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <sstream>
#include <string>

#include "base/io.h"

namespace rfork::loader {

bool only_closed_have(uint16_t port) {
  const std::string wanted = fmt::format(":{:04X}", ntohs(port));
  bool closed = false;
  for (const char* const table : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
    std::istringstream lines(try_read_file_at(AT_FDCWD, table).value_or(""));
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string number, local, remote, state;
      words >> number >> local >> remote >> state;
      if (!local.ends_with(wanted)) continue;
      if (state != "06") return false;  // TCP_TIME_WAIT of net/tcp_states.h
      closed = true;
    }
  }
  return closed;
}

}  // namespace rfork::loader
