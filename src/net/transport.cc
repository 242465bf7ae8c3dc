#include "net/transport.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/error.h"

namespace rfork::net {

namespace {

/// Non-blocking, and closed by exec: asio's sockets are not.
void prepare(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) throw_errno("fcntl(O_NONBLOCK)");
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) throw_errno("fcntl(FD_CLOEXEC)");
}

/// Keeps a write to a broken pipe from killing the program; sockets have MSG_NOSIGNAL for that. A
/// SIGPIPE that this thread caused is taken off again, so that the caller's disposition stays its
/// own.
class PipeSignalHeld {
 public:
  PipeSignalHeld() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &old_);
  }
  PipeSignalHeld(const PipeSignalHeld&) = delete;
  PipeSignalHeld& operator=(const PipeSignalHeld&) = delete;
  ~PipeSignalHeld() {
    const int error = errno;
    const timespec now{};
    if (!was_pending_) sigtimedwait(&pipe_, nullptr, &now);
    pthread_sigmask(SIG_SETMASK, &old_, nullptr);
    errno = error;
  }

 private:
  sigset_t pipe_{};
  sigset_t old_{};
  bool was_pending_ = false;
};

}  // namespace

Transport::Transport(UniqueFd socket) : input_(std::move(socket)) {
  prepare(input_.get());
}

Transport::Transport(UniqueFd input, UniqueFd output)
    : input_(std::move(input)), output_(std::move(output)) {
  prepare(input_.get());
  prepare(output_.get());
}

Io Transport::read(std::span<std::byte> buffer) {
  for (;;) {
    const ssize_t n = ::read(input_.get(), buffer.data(), buffer.size());
    if (n > 0) return {Io::State::done, static_cast<size_t>(n)};
    if (n == 0) return {Io::State::closed, 0};
    if (errno == EAGAIN) return {Io::State::want_read, 0};
    if (errno != EINTR) throw_errno("read");
  }
}

Io Transport::write(std::span<const std::byte> data) {
  return write(data, {});
}

Io Transport::write(std::span<const std::byte> first, std::span<const std::byte> second) {
  iovec parts[2] = {{const_cast<std::byte*>(first.data()), first.size()},
                    {const_cast<std::byte*>(second.data()), second.size()}};
  for (;;) {
    ssize_t n;
    if (output_) {
      const PipeSignalHeld held;
      n = ::writev(output_.get(), parts, 2);
    } else {
      msghdr message{};
      message.msg_iov = parts;
      message.msg_iovlen = 2;
      n = ::sendmsg(input_.get(), &message, MSG_NOSIGNAL);
    }
    if (n >= 0) return {Io::State::done, static_cast<size_t>(n)};
    if (errno == EAGAIN) return {Io::State::want_write, 0};
    if (errno != EINTR) throw_errno("write");
  }
}

bool Transport::input_waiting() const {
  pollfd input{input_.get(), POLLIN, 0};
  return ::poll(&input, 1, 0) > 0;
}

void Transport::finish_output() {
  if (output_) {
    // sshd gives a program one socket for both; a pipe refuses this.
    (void)::shutdown(output_.get(), SHUT_WR);
    output_.reset();
  } else {
    ::shutdown(input_.get(), SHUT_WR);
  }
}

}  // namespace rfork::net
