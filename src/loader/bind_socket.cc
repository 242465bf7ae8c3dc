#include "loader/bind_socket.h"

#include <fmt/format.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/tcp_silence.h"
#include "base/value_in.h"
#include "loader/created_files.h"
#include "loader/held_connections.h"
#include "loader/internet_name.h"
#include "loader/port_users.h"
#include "loader/socket_settings.h"

namespace rfork::loader {

using image::Socket;

namespace {

constexpr int kMptcp = 262;        // IPPROTO_MPTCP
constexpr int kSocketCookie = 57;  // SO_COOKIE

/// One socket on its way.
class Binding {
 public:
  Binding(const Socket& socket, int number, const BindOptions& options, SocketNames& names,
          Findings& findings)
      : socket_(socket), number_(number), options_(options), names_(names), findings_(findings) {}

  BoundSocket make();
  bool name_end(BoundSocket& end) {
    std::swap(made_, end);
    const bool bound = bind_unix();
    std::swap(made_, end);
    return bound;
  }

 private:
  bool make_plain();
  bool bind_unix();
  bool bind_path();
  void make_directories(const std::string& path);
  bool bind_abstract();
  bool bind_internet();
  int bind_ahead(const Bytes& name) const;
  void say_if_shared(const Bytes& name) const;
  bool bind_netlink();
  bool bind_packet();
  int bind(const Bytes& name) const {
    const auto* const address = reinterpret_cast<const sockaddr*>(name.data());
    return ::bind(made_.fd.get(), address, static_cast<socklen_t>(name.size())) == 0 ? 0 : errno;
  }
  bool refuse(int error) const;
  void refuse_kept() const;
  std::string words() const { return fmt::format("descriptor {}", number_); }

  const Socket& socket_;
  const int number_;
  const BindOptions& options_;
  SocketNames& names_;
  Findings& findings_;
  BoundSocket made_;
};

bool Binding::refuse(int error) const {
  const std::string what = fmt::format("{} can't have the address {} {}", words(),
                                       address_words(socket_.name), options_.where);
  const std::string drop = drop_advice(number_);
  const bool tcp = socket_.family != AF_UNIX && socket_.type == SOCK_STREAM;
  if (error == EADDRINUSE && tcp && only_closed_have(port_of(socket_.name))) {
    findings_.refuse(
        what + ": connections that are closed have its port for up to a minute (TIME_WAIT)",
        "try again then, or " + drop);
  } else if (error == EADDRINUSE) {
    findings_.refuse(what + ": it is in use", "end who has it, or " + drop);
  } else if (error == EEXIST) {
    findings_.refuse(what + ": another file has the name", "take it away, or " + drop);
  } else if (error == EADDRNOTAVAIL) {
    findings_.refuse(what + ": no interface has it",
                     "give it to one, or --any-address takes any in its place, or " + drop);
  } else {
    findings_.refuse(what + ": " + std::strerror(error), drop);
  }
  return false;
}

void Binding::refuse_kept() const {
  const std::string what =
      fmt::format("{} is a TCP connection to {}, which can't be kept {}: ", words(),
                  socket_.peer.empty() ? "elsewhere" : address_words(socket_.peer), options_.where);
  if (options_.held != nullptr && options_.held->named()) {
    return findings_.refuse(what + options_.held->why_not(), drop_advice(number_));
  }
  findings_.refuse(what + "only a move within one host takes it from the original",
                   "leave --keep-tcp out, or " + drop_advice(number_));
}

bool Binding::make_plain() {
  const int type = socket_.type | SOCK_CLOEXEC;
  // A packet socket receives nothing before it is bound.
  const int protocol = socket_.family == AF_PACKET ? 0 : socket_.protocol;
  made_.fd.reset(::socket(socket_.family, type, protocol));
  if (!made_.fd && protocol == kMptcp) {
    made_.fd.reset(::socket(socket_.family, type, IPPROTO_TCP));
    if (made_.fd) findings_.warn(words() + " is a TCP socket: there is no MPTCP here");
  }
  if (made_.fd) return true;
  findings_.refuse(fmt::format("{} is a socket that can't be made {}: {}", words(), options_.where,
                               std::strerror(errno)),
                   drop_advice(number_));
  return false;
}

bool Binding::bind_unix() {
  return socket_path(socket_.name).empty() ? bind_abstract() : bind_path();
}

bool Binding::bind_abstract() {
  constexpr size_t kAutobind = sizeof(sa_family_t) + 6;  // NUL and five hexadecimal digits
  const int error = bind(socket_.name);
  if (error == 0) return true;
  if (error != EADDRINUSE || socket_.name.size() != kAutobind) return refuse(error);
  const Bytes any(socket_.name.begin(), socket_.name.begin() + sizeof(sa_family_t));
  if (const int again = bind(any); again != 0) return refuse(again);
  findings_.warn(fmt::format("{} has another name than {}, which the kernel had chosen", words(),
                             address_words(socket_.name)));
  return true;
}

void Binding::make_directories(const std::string& path) {
  const std::string folder = path.substr(0, std::max<size_t>(path.rfind('/'), 1));
  if (options_.created == nullptr || ::access(folder.c_str(), F_OK) == 0) return;
  std::vector<std::string> made;
  options_.created->make_directories(folder, &made);
  for (const std::string& directory : made) findings_.warn("created directory " + directory);
}

bool Binding::bind_path() {
  if (!socket_.has_path) {
    const std::string name = socket_path(socket_.name);
    if (!name.starts_with('/') && (socket_.listening || socket_.type == SOCK_DGRAM)) {
      findings_.warn(
          fmt::format("{} isn't at {} any more, as the working directory is now: nobody "
                      "reaches it by that path",
                      words(), name));
    }
    const int error = options_.trial ? 0 : names_.lend(made_.fd.get(), socket_.name, made_.reach);
    return error == 0 || refuse(error);
  }
  const std::string path = names_.place(socket_.name);
  struct stat status {};
  const bool there = ::lstat(path.c_str(), &status) == 0;
  // What a process that has ended left behind gives way; a living socket doesn't, nor another file.
  const bool dead =
      there && S_ISSOCK(status.st_mode) && probe_path(path, socket_.type) == ECONNREFUSED;
  if (there && !S_ISSOCK(status.st_mode)) return refuse(EEXIST);
  if (there && !dead) return refuse(EADDRINUSE);
  if (options_.trial) return true;
  if (dead && ::unlink(path.c_str()) != 0) return refuse(errno);
  make_directories(path);
  if (const int error = names_.bind_at_place(made_.fd.get(), socket_.name); error != 0) {
    return refuse(error);
  }
  (void)::chmod(path.c_str(), socket_.mode);
  if (::geteuid() == 0) (void)!::lchown(path.c_str(), socket_.uid, socket_.gid);
  made_.reach = path;
  return true;
}

bool has_option(const Socket& socket, const char* name) {
  return std::ranges::any_of(socket.options, [&](const image::SocketOption& option) {
    return option.name == name && !option.value.empty() && option.value[0] != std::byte{0};
  });
}

/// With SO_REUSEPORT the kernel lets several have an address, and gives each a part of what comes.
void Binding::say_if_shared(const Bytes& name) const {
  const bool datagrams = socket_.type == SOCK_DGRAM;
  const bool shares =
      has_option(socket_, "SO_REUSEPORT") || (datagrams && has_option(socket_, "SO_REUSEADDR"));
  if (!shares || !names_.first_to_share(name)) return;
  const UniqueFd probe(::socket(socket_.family, socket_.type | SOCK_CLOEXEC, 0));
  const int on = 1;
  // What is left of old connections is no rival.
  if (!datagrams) ::setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const auto* const address = reinterpret_cast<const sockaddr*>(name.data());
  if (::bind(probe.get(), address, static_cast<socklen_t>(name.size())) == 0 ||
      errno != EADDRINUSE) {
    return;
  }
  findings_.warn(fmt::format("{} shares the address {} with another socket {} (SO_REUSEPORT)",
                             words(), address_words(socket_.name), options_.where));
}

/// To an address that isn't there yet.
int Binding::bind_ahead(const Bytes& name) const {
  constexpr int kIpv6FreeBind = 78;  // IPV6_FREEBIND
  const int fd = made_.fd.get();
  const bool six = socket_.family == AF_INET6;
  const int level = six ? IPPROTO_IPV6 : IPPROTO_IP, option = six ? kIpv6FreeBind : IP_FREEBIND;
  int before = 0;
  socklen_t size = sizeof before;
  const int on = 1;
  ::getsockopt(fd, level, option, &before, &size);
  ::setsockopt(fd, level, option, &on, sizeof on);
  const int error = bind(name);
  ::setsockopt(fd, level, option, &before, sizeof before);
  return error;
}

bool Binding::bind_internet() {
  const int fd = made_.fd.get();
  const Bytes name = internet_name(socket_, fd, false, false);
  say_if_shared(name);
  int error = bind(name);
  if (error == EADDRNOTAVAIL && options_.moving.contains(moving_address(socket_))) {
    error = bind_ahead(name);
  }
  if (error == 0) return true;
  // Who asks others for something needs no address of its own that they knew before.
  const bool asks = socket_.type != SOCK_STREAM && !socket_.peer.empty();
  const bool elsewhere = error == EADDRNOTAVAIL;
  if (elsewhere && (asks || options_.any_address)) {
    error = bind(internet_name(socket_, fd, true, false));
  }
  if (error == EADDRINUSE && asks) error = bind(internet_name(socket_, fd, true, true));
  if (error != 0) return refuse(error);
  findings_.warn(fmt::format("{} has another address than {}, which can't be had {}", words(),
                             address_words(socket_.name), options_.where));
  return true;
}

bool Binding::bind_netlink() {
  if (bind(socket_.name) == 0) return true;
  Bytes any(sizeof(sockaddr_nl));  // the kernel chooses the port
  std::memcpy(any.data(), socket_.name.data(), sizeof(sa_family_t));
  if (const int error = bind(any); error != 0) return refuse(error);
  findings_.warn(
      fmt::format("{} has another netlink port than {}", words(), address_words(socket_.name)));
  return true;
}

bool Binding::bind_packet() {
  auto address = value_in<sockaddr_ll>(socket_.name);
  if (address.sll_ifindex != 0) {
    address.sll_ifindex = interface_index(made_.fd.get(), socket_.interface);
    if (address.sll_ifindex == 0) {
      findings_.refuse(fmt::format("{} listens on the interface {}, which isn't {}", words(),
                                   socket_.interface, options_.where),
                       drop_advice(number_));
      return false;
    }
  }
  // What it doesn't want must not get in before its filter is there.
  set_filter(made_.fd.get(), socket_, words(), findings_);
  const auto* const start = reinterpret_cast<const std::byte*>(&address);
  const int error = bind(Bytes(start, start + sizeof address));
  return error == 0 || refuse(error);
}

/// SO_REUSEADDR while a socket is bound and begins to listen.
class SharedPort {
 public:
  SharedPort(int fd, bool wanted) : fd_(fd) {
    socklen_t size = sizeof before_;
    ::getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &before_, &size);
    if (wanted) set(1);
  }
  ~SharedPort() { set(before_); }
  SharedPort(const SharedPort&) = delete;
  SharedPort& operator=(const SharedPort&) = delete;

 private:
  void set(int value) const { ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value); }
  int fd_;
  int before_ = 0;
};

BoundSocket Binding::make() {
  if (take_original(made_, socket_, number_, options_)) return std::move(made_);
  if (is_kept_connection(socket_)) {
    refuse_kept();
    return {};
  }
  if (!make_plain()) return {};
  set_options(made_.fd.get(), socket_, image::SocketOptionKind::Time::first, words(), findings_);
  bool bound = true;
  const bool internet = socket_.family == AF_INET || socket_.family == AF_INET6;
  // Those that were accepted here have it already.
  const SharedPort shared(made_.fd.get(), internet && socket_.type == SOCK_STREAM &&
                                              names_.has_connection(port_of(socket_.name)));
  if (!socket_.name.empty()) {
    switch (socket_.family) {
      case AF_UNIX:
        bound = bind_unix();
        break;
      case AF_NETLINK:
        bound = bind_netlink();
        break;
      case AF_PACKET:
        bound = bind_packet();
        break;
      default:
        bound = bind_internet();
    }
  }
  if (bound && socket_.listening && !options_.trial &&
      ::listen(made_.fd.get(), socket_.backlog) != 0) {
    bound = refuse(errno);
  }
  if (!bound) made_.fd.reset();
  return std::move(made_);
}

}  // namespace

int connect_to_name(int fd, const Bytes& name) {
  const auto* const address = reinterpret_cast<const sockaddr*>(name.data());
  return ::connect(fd, address, static_cast<socklen_t>(name.size())) == 0 ? 0 : errno;
}

int connect_to(int fd, const BoundSocket& bound, const Bytes& name) {
  return bound.reach.empty() ? connect_to_name(fd, name) : connect_to_path(fd, bound.reach);
}

// Its other holder is frozen, and about to end.
bool take_original(BoundSocket& made, const Socket& socket, int number,
                   const BindOptions& options) {
  if (socket.tcp) return false;
  if (socket.kept && options.held != nullptr) {
    made.fd = options.held->take(socket.cookie);
    made.taken = static_cast<bool>(made.fd);
    if (made.taken) return true;
  }
  if (options.original == 0 || socket.cookie == 0 || number < 0) return false;
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, options.original, 0)));
  // pidfd_getfd(2) asks for our real user's rights; an image may have but those of the child's. The
  // directory is root's if the process has more than its user.
  struct stat status {};
  if (::stat(fmt::format("/proc/{}", options.original).c_str(), &status) != 0 ||
      (::geteuid() != 0 && status.st_uid != ::geteuid())) {
    return false;
  }
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (!fd || ::getsockopt(fd.get(), SOL_SOCKET, kSocketCookie, &cookie, &size) != 0 ||
      cookie != socket.cookie) {
    return false;
  }
  made.fd = std::move(fd);
  made.taken = true;
  return true;
}

std::string moving_address(const Socket& socket) {
  const auto tuple = tcp_tuple(socket.name, socket.name);
  return tuple ? own_address_words(*tuple) : "";
}

bool is_kept_connection(const Socket& socket) {
  const bool internet = socket.family == AF_INET || socket.family == AF_INET6;
  if (socket.kept) return true;
  return internet && socket.type == SOCK_STREAM && !socket.peer.empty() && !socket.listening &&
         !socket.peer_gone;
}

bool name_end(BoundSocket& end, const Socket& socket, int number, const BindOptions& options,
              SocketNames& names, Findings& findings) {
  return socket.name.empty() || Binding(socket, number, options, names, findings).name_end(end);
}

BoundSocket make_socket(const Socket& socket, int number, const BindOptions& options,
                        SocketNames& names, Findings& findings) {
  return Binding(socket, number, options, names, findings).make();
}

}  // namespace rfork::loader
