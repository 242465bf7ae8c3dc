// Addresses and sockets in words.
#pragma once

#include <string>

#include "image/model.h"

namespace rfork::image {

/// The path in a struct sockaddr_un; empty: it has none (unnamed, abstract).
std::string socket_path(const Bytes& name);
/// What a person calls the address: "/run/a.sock", "@abstract", "10.0.0.1:80", "[::1]:53".
std::string address_words(const Bytes& name);
/// "unix stream, listening at /run/a.sock, backlog 5"; "UDP 127.0.0.1:53 to 127.0.0.1:4711".
std::string socket_words(const Socket& socket);

}  // namespace rfork::image
