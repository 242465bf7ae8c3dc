// Options, filter and groups of a socket, set as they were.
#pragma once

#include <string>

#include "image/model.h"
#include "image/socket_options.h"
#include "loader/findings.h"

namespace rfork::loader {

/// Sets those options whose time it is, as far as the socket has another value. `words`: what a
/// person calls the socket ("descriptor 3"). What can't be set is a reason, or a note where the
/// program works without it.
void set_options(int fd, const image::Socket& socket, image::SocketOptionKind::Time time,
                 const std::string& words, Findings& findings);
void set_filter(int fd, const image::Socket& socket, const std::string& words, Findings& findings);
void join_groups(int fd, const image::Socket& socket, const std::string& words, Findings& findings);

/// The index of the interface of that name in the socket's network namespace; 0: there is none.
int interface_index(int fd, const std::string& name);

/// What goes on without a socket.
std::string drop_advice(int fd);

}  // namespace rfork::loader
