#include <asm/termbits.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <span>

#include "tracer/describe_fd.h"
#include "tracer/sockets.h"

namespace rfork::tracer {

using image::Description;

namespace {

// nullopt: what is behind it can't be reached through a ghost.
std::optional<Description::RelayType> relay_type(const OpenFd& open, const UniqueFd& own) {
  using Type = Description::RelayType;
  const int access = open.flags & O_ACCMODE;
  if (!own || (open.flags & O_PATH) != 0) return std::nullopt;
  if (S_ISFIFO(open.status.st_mode)) {
    if (access == O_RDWR || (open.flags & O_DIRECT) != 0) return std::nullopt;
    return access == O_RDONLY ? Type::reader : Type::writer;
  }
  if (is_terminal(open.status)) return Type::terminal;
  // What is said goes where it went, and a file that others write too has one offset.
  const bool says = open.fd == STDOUT_FILENO || open.fd == STDERR_FILENO;
  if (says && S_ISREG(open.status.st_mode) && access != O_RDONLY) return Type::writer;
  if (!S_ISSOCK(open.status.st_mode)) return std::nullopt;
  int type = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(own.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
    return std::nullopt;
  }
  sockaddr_storage peer{};
  socklen_t peer_size = sizeof peer;
  if (::getpeername(own.get(), reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0) {
    return std::nullopt;  // listening, or never connected
  }
  return Type::socket;
}

// What is only written to has its lines ended where it is shown.
void describe_terminal(int fd, bool input, Description& description) {
  termios2 modes{};
  winsize size{};
  if (::ioctl(fd, TCGETS2, &modes) == 0) {
    if (!input) modes.c_oflag &= ~static_cast<tcflag_t>(OPOST);
    const auto bytes = std::as_bytes(std::span(&modes, 1));
    description.terminal_modes.assign(bytes.begin(), bytes.end());
  }
  if (::ioctl(fd, TIOCGWINSZ, &size) == 0) {
    const auto bytes = std::as_bytes(std::span(&size, 1));
    description.window_size.assign(bytes.begin(), bytes.end());
  }
}

// The description that stands for this terminal already; 0: none.
uint32_t relayed_already(const Inventory& inventory, dev_t terminal) {
  const auto found = inventory.relayed_terminals.find(terminal);
  return terminal == 0 || found == inventory.relayed_terminals.end() ? 0 : found->second;
}

// The description that stands for this end of a pipe already; 0: none.
uint32_t relayed_already(const Inventory& inventory, const OpenFd& open) {
  for (const auto& [id, own] : inventory.relays) {
    struct stat status {};
    if (::fstat(own.get(), &status) != 0 || status.st_ino != open.status.st_ino) continue;
    const int flags = ::fcntl(own.get(), F_GETFL);
    if (status.st_dev == open.status.st_dev && ((flags ^ open.flags) & O_ACCMODE) == 0) return id;
  }
  return 0;
}

}  // namespace

bool describe_relay(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                    Description& description) {
  if (!input.relay || (open.fd == 0 && !input.relay_input)) return false;
  UniqueFd own = duplicate_descriptor(input.pid, open.fd);
  const auto relay = relay_type(open, own);
  if (!relay) return false;
  description.kind = Description::Kind::relay;
  description.relay = *relay;
  if (*relay == Description::RelayType::terminal) {
    description.other = relayed_already(inventory, open.terminal);
    if (description.other != 0) return true;
    describe_terminal(own.get(), input.relay_input, description);
    inventory.relayed_terminals.emplace(open.terminal, description.id);
  }
  if (S_ISFIFO(open.status.st_mode)) {
    description.capacity = static_cast<uint64_t>(std::max(::fcntl(own.get(), F_GETPIPE_SZ), 0));
    description.other = relayed_already(inventory, open);
    if (description.other != 0) return true;
  }
  if (*relay == Description::RelayType::socket) {
    description.socket = describe_relayed_socket(own.get());
  }
  inventory.relays.emplace(description.id, std::move(own));
  return true;
}

}  // namespace rfork::tracer
