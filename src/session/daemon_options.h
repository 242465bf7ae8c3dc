// How a daemon was started.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "net/address.h"
#include "net/key.h"
#include "session/user_policy.h"

namespace rfork::session {

/// How long a worker waits, and for what.
struct WorkerDeadlines {
  std::chrono::milliseconds handshake{5'000};
  std::chrono::milliseconds request{10'000};  ///< after the handshake
  std::chrono::milliseconds first_data{
      300'000};                                ///< after the answer: the client freezes the process
  std::chrono::milliseconds progress{60'000};  ///< without a byte, in either direction
  std::chrono::milliseconds go{300'000};       ///< after READY: the client may ask a person
  std::chrono::milliseconds keepalive{5'000};  ///< between two signs of life where the client waits
};

struct DaemonOptions {
  std::vector<net::Address> listen;
  bool stdio = false;  ///< in place of listening: serves what its standard input and output reach
  std::optional<net::Key> key;
  UserPolicy users;
  std::vector<net::Address> notify;  ///< get every event as a datagram
  std::string spool;                 ///< directory through which images may come; empty: none
  std::string state_dir;             ///< empty: the default for this user
  std::string port_file;             ///< gets the port of the first address; empty: none
  size_t max_connections = 256;
  size_t max_unauthenticated = 64;
  size_t max_ended = 256;  ///< ended children that are remembered
  WorkerDeadlines deadlines;
};

}  // namespace rfork::session
