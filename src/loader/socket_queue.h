// Puts messages into a socket's queue: by sending them to it.
#pragma once

#include <span>

#include "image/model.h"

namespace rfork::loader {

/// Sends it through `fd`, to an address if the socket isn't connected, with its sender's
/// credentials as far as we may say them, and with descriptors. 0, or an errno.
int send_message(int fd, const image::SocketMessage& message, std::span<const int> passed = {},
                 const Bytes& address = {});

/// Whether it tells who sent it, and that is another process.
bool is_of_another(const image::SocketMessage& message);
/// Whether we may send such a message as that process.
bool may_speak_as_sender(const image::SocketMessage& message);

/// Writes into a TCP connection whose other end is `receiver`, without waiting for who reads. 0, or
/// an errno.
int send_stream(int fd, int receiver, std::span<const std::byte> data);

/// Makes room in the buffer of a socket that sends for others.
void make_room(int fd, size_t size);

/// Sends a datagram to the internet socket `target`, as if from where it came: by `own`, which has
/// that address, or, if that is -1, by a socket that gets it for a moment. False: it didn't get in.
bool send_datagram(int target, const image::Socket& socket, const image::SocketMessage& message,
                   int own);

}  // namespace rfork::loader
