// Reads and writes of relays' ends that never wait.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "base/byte_queue.h"
#include "base/unique_fd.h"

namespace rfork::session {

/// How much can be written without waiting to what poll(2) calls ready. A description that could
/// not be opened again, because it is another user's, is as blocking as it was, and whoever waits
/// in write(2) hears no signal for the child. 0: it doesn't block.
size_t at_once(int fd, bool socket);
/// As write(2) and read(2) to what is non-blocking. `at_once` as above.
ssize_t write_now(int fd, std::span<const std::byte> bytes, size_t at_once);
ssize_t read_now(int fd, std::span<std::byte> bytes, size_t at_once);

bool is_pipe(int fd);
/// Whether `fd` leads to a pipe at whose end its reader is: all is read, and nobody writes.
bool at_end_of_pipe(int fd);
/// Whether the other end of a pipe or socket has not read all that was written to `fd`.
bool has_unread(int fd);
/// Whether it is a connection of TCP.
bool is_tcp(int fd);
/// Whether all that was written to a connection of TCP has left for the other end. If not, poll(2)
/// says POLLOUT no sooner.
bool has_left(int fd);
/// The next close(2), of the last descriptor of a connection of TCP, resets it.
void reset_at_close(int fd);
/// Appends what can be read of the pipe that `fd` leads to, an end of it, whichever.
void take_all_of_pipe(int fd, ByteQueue& queue);
/// A writing end of the pipe whose reading end `fd` is; empty if it is no pipe, or is another
/// user's.
UniqueFd writing_end(int fd);

}  // namespace rfork::session
