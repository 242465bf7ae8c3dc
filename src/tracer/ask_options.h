// The options of a socket, as they are captured of it.
#pragma once

#include <string>
#include <vector>

#include "image/model.h"

namespace rfork::tracer {

/// The name of an interface in the socket's network namespace; empty: there is none.
std::string interface_name(int fd, int index);

/// All that image/socket_options.h lists and the kernel tells.
std::vector<image::SocketOption> ask_options(int fd, const image::Socket& socket);

/// What means nothing for TCP, where accept(2) leaves something of the segment that came; and of a
/// connection what the kernel has found for it, or what only one to come can be given.
void leave_out_of_tcp(bool connected, std::vector<image::SocketOption>& options);

/// What concerns the way to another host, and not the program that reads and writes.
void leave_out_of_relay(std::vector<image::SocketOption>& options);

}  // namespace rfork::tracer
