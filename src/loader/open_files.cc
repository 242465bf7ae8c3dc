#include "loader/open_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/io.h"

namespace rfork::loader {

using image::Description;
using image::Descriptor;
using plan::OpKind;

namespace {

BindOptions bind_options(const image::Snapshot& snapshot, const Options& options, HostFiles& files,
                         HeldConnections& held, const RemadeConnections& remade) {
  BindOptions bind;
  bind.held = &held;
  bind.remade = &remade;
  bind.created = &files.created();
  bind.any_address = options.any_address;
  for (const Description& description : snapshot.descriptions) {
    if (!description.socket || !description.socket->tcp) continue;
    bind.moving.insert(moving_address(*description.socket));
  }
  const std::string& boot = snapshot.host.boot_id;
  const bool same_boot =
      !boot.empty() && read_file("/proc/sys/kernel/random/boot_id").starts_with(boot);
  if (options.original_waits && same_boot) bind.original = snapshot.processes[0].pid;
  return bind;
}

}  // namespace

OpenFiles::OpenFiles(const image::Snapshot& snapshot, const Options& options, HostFiles& files,
                     HeldConnections& held, const RemadeConnections& remade, Findings& findings)
    : snapshot_(snapshot),
      process_(snapshot.processes[0]),
      options_(options),
      files_(files),
      findings_(findings),
      pipes_(snapshot),
      fifos_(snapshot, files, findings),
      inotify_(files),
      fanotify_(files, process_, !options.user),
      sockets_(snapshot, bind_options(snapshot, options, files, held, remade), findings),
      terminals_(snapshot, findings) {
  for (const Descriptor& descriptor : process_.descriptors) {
    highest_ = std::max(highest_, descriptor.fd);
    if (opened_.contains(descriptor.description)) continue;
    const Description* description = image::find_id(snapshot.descriptions, descriptor.description);
    if (description == nullptr) {
      findings.refuse(fmt::format("the image says nothing of descriptor {}", descriptor.fd));
      continue;
    }
    Opened opened = open_one(*description);
    sort_locks(*description, opened);
    opened_[descriptor.description] = std::move(opened);
    open_passed(*description);
  }
  sockets_.complete([this](uint32_t id) { return passed(id); });
  terminals_.complete(options.foreground);
  passed_.clear();
}

/// What is on its way in a socket, and has no number.
void OpenFiles::open_passed(const Description& socket) {
  if (!socket.socket) return;
  for (const image::SocketMessage& message : socket.socket->messages) {
    for (const uint32_t id : message.descriptions) {
      if (opened_.contains(id)) continue;
      const Description& description = *image::find_id(snapshot_.descriptions, id);
      opened_[id] = open_one(description);
      open_passed(description);
    }
  }
}

int OpenFiles::passed(uint32_t id) {
  const Opened& opened = opened_.at(id);
  if (opened.child_path.empty()) return opened.fd;
  passed_.push_back(try_open(opened.child_path, opened.flags | O_CLOEXEC | O_NOCTTY));
  return passed_.back().get();
}

OpenFiles::Opened OpenFiles::own(UniqueFd fd) {
  Opened opened;
  opened.own = std::move(fd);
  opened.fd = opened.own.get();
  return opened;
}

OpenFiles::Opened OpenFiles::open_one(const Description& description) {
  switch (description.kind) {
    case Description::Kind::stdio:
      return open_stdio(description);
    case Description::Kind::relay:
      return open_relay(description);
    case Description::Kind::device:
      return check_device(description);
    case Description::Kind::directory:
      return check_directory(description);
    case Description::Kind::eventfd:
    case Description::Kind::signalfd:
    case Description::Kind::timerfd:
    case Description::Kind::epoll:
      return own(make_kernel_object(description, findings_));
    case Description::Kind::pipe:
      return own(pipes_.open(description, findings_));
    case Description::Kind::socket:
      return own(sockets_.open(description));
    case Description::Kind::inotify:
      return own(inotify_.make(description, findings_));
    case Description::Kind::fanotify:
      return own(fanotify_.make(description, findings_));
    case Description::Kind::fifo:
      return own(fifos_.open(description));
    case Description::Kind::kernel_file:
      return check_kernel_file(description);
    case Description::Kind::path:
      return open_bare_path(description);
    case Description::Kind::pseudo_terminal:
      return own(terminals_.open(description));
    case Description::Kind::pidfd:
      return {};  // when there is a process
    case Description::Kind::regular:
    case Description::Kind::contents:
      break;
  }
  return open_file(description);
}

bool OpenFiles::stands_on(uint32_t description, int fd) const {
  return std::ranges::any_of(process_.descriptors, [&](const Descriptor& descriptor) {
    return descriptor.description == description && descriptor.fd == fd;
  });
}

/// The caller's of the same number. `2>&1` stays as it is: the caller's standard error isn't asked
/// for. A terminal is one description on 0, 1 and 2 without being asked for that.
int OpenFiles::standard_stream(const Description& description, int fd) const {
  const bool terminal = description.path.starts_with("/dev/");
  if (fd == STDERR_FILENO && !terminal && stands_on(description.id, STDOUT_FILENO))
    fd = STDOUT_FILENO;
  const int given[] = {options_.stdio_input, options_.stdio_output, options_.stdio_error};
  return given[fd] < 0 ? null_.get() : given[fd];
}

OpenFiles::Opened OpenFiles::open_stdio(const Description& description) {
  if (!null_) null_ = open_or_throw("/dev/null", O_RDWR);
  Opened opened;
  opened.stdio = &description;
  // What was copied from a standard stream; of several, the one whose bytes can be lost.
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO, STDIN_FILENO}) {
    if (opened.fd < 0 && stands_on(description.id, fd))
      opened.fd = standard_stream(description, fd);
  }
  // A terminal that the process has opened again: the caller's, if it has one.
  for (const int fd : {options_.stdio_input, options_.stdio_output, options_.stdio_error}) {
    if (opened.fd >= 0 || fd < 0 || ::isatty(fd) == 0) continue;
    opened.own = reopen(fd, description.flags);
    opened.fd = opened.own.get();
  }
  if (opened.fd < 0) opened.fd = null_.get();
  return opened;
}

int OpenFiles::fd_for(const Descriptor& descriptor, const Opened& opened) const {
  const bool standard = descriptor.fd >= 0 && descriptor.fd <= STDERR_FILENO;
  return opened.stdio != nullptr && standard ? standard_stream(*opened.stdio, descriptor.fd)
                                             : opened.fd;
}

OpenFiles::Opened OpenFiles::open_relay(const Description& description) {
  Opened opened;
  const auto found = options_.relays.find(description.id);
  if (found == options_.relays.end()) return open_stdio(description);
  opened.fd = found->second;
  return opened;
}

void OpenFiles::hand(HandedFds& handed) const {
  for (const auto& [id, opened] : opened_) {
    if (opened.fd >= 0) handed(opened.fd);
  }
  for (const Descriptor& descriptor : process_.descriptors) {
    const auto found = opened_.find(descriptor.description);
    if (found != opened_.end() && found->second.stdio != nullptr) {
      handed(fd_for(descriptor, found->second));
    }
  }
}

void OpenFiles::let_go() {
  for (auto& [id, opened] : opened_) opened.own.reset();
  pipes_.let_go();
  fifos_.let_go();
  sockets_.let_go();
  terminals_.let_go();
}

void OpenFiles::add_handed(PlanWriter& plan, HandedFds& handed) const {
  for (const Descriptor& descriptor : process_.descriptors) {
    const auto found = opened_.find(descriptor.description);
    if (found == opened_.end() || found->second.fd < 0) continue;
    plan.call(SYS_dup3,
              {static_cast<uint64_t>(handed(fd_for(descriptor, found->second))),
               static_cast<uint64_t>(descriptor.fd), descriptor.close_on_exec ? O_CLOEXEC : 0u},
              fmt::format("place descriptor {}", descriptor.fd), descriptor.fd);
  }
}

void OpenFiles::add_controlling_terminal(PlanWriter& plan) const {
  if (options_.foreground) return;  // it stays in the caller's session
  terminals_.add_controlling(plan, process_);
  for (const Descriptor& descriptor : process_.descriptors) {
    const Description* description = image::find_id(snapshot_.descriptions, descriptor.description);
    if (description == nullptr || description->kind != Description::Kind::relay ||
        description->relay != Description::RelayType::terminal) {
      continue;
    }
    plan.try_call(SYS_ioctl, {static_cast<uint64_t>(descriptor.fd), TIOCSCTTY, 0},
                  "take the terminal");
    return;
  }
}

void OpenFiles::add_opened_by_child(PlanWriter& plan, int32_t thread) const {
  std::map<uint32_t, int> first;  // descriptor that has the description already
  for (const Descriptor& descriptor : process_.descriptors) {
    const auto found = opened_.find(descriptor.description);
    if (found == opened_.end() || found->second.child_path.empty()) continue;
    const Opened& opened = found->second;
    if (opened.thread != thread) continue;
    const auto number = static_cast<uint64_t>(descriptor.fd);
    const uint64_t cloexec = descriptor.close_on_exec ? O_CLOEXEC : 0u;
    if (const auto known = first.find(descriptor.description); known != first.end()) {
      plan.call(SYS_dup3, {static_cast<uint64_t>(known->second), number, cloexec},
                fmt::format("place descriptor {}", descriptor.fd), descriptor.fd);
      continue;
    }
    first[descriptor.description] = descriptor.fd;
    // O_CLOEXEC in the open too: when the number comes right at once, no dup3 sets it.
    plan.op(OpKind::open,
            {plan.text(opened.child_path), static_cast<uint64_t>(opened.flags | O_NOCTTY) | cloexec,
             number, cloexec},
            fmt::format("open {} as descriptor {}", opened.child_path, descriptor.fd));
    if (opened.offset != 0) {
      plan.try_call(SYS_lseek, {number, static_cast<uint64_t>(opened.offset), SEEK_SET},
                    fmt::format("lseek of descriptor {}", descriptor.fd));
    }
  }
}

/// pidfd_open(2) takes the lowest free number, which is known: all others are in place.
void OpenFiles::add_pidfds(PlanWriter& plan) const {
  std::set<int> used;
  std::map<uint32_t, std::vector<Descriptor>> pidfds;
  for (const Descriptor& descriptor : process_.descriptors) {
    const Description* description = image::find_id(snapshot_.descriptions, descriptor.description);
    if (description != nullptr && description->kind == Description::Kind::pidfd) {
      pidfds[description->id].push_back(descriptor);
    } else {
      used.insert(descriptor.fd);
    }
  }
  for (const auto& [id, descriptors] : pidfds) {
    int free = 0;
    while (used.contains(free)) ++free;
    const int32_t flags = image::find_id(snapshot_.descriptions, id)->flags;
    const auto number = static_cast<uint64_t>(free);
    const uint64_t open =
        plan.call(SYS_pidfd_open, {0, static_cast<uint64_t>(flags & (O_NONBLOCK | O_EXCL))},
                  fmt::format("open the pidfd {}", descriptors[0].fd), free);
    plan.at(open).own_pid = 1u << 0;
    bool stays = false;
    for (const Descriptor& descriptor : descriptors) {
      const auto fd = static_cast<uint64_t>(descriptor.fd);
      used.insert(descriptor.fd);
      stays = stays || descriptor.fd == free;
      const uint64_t cloexec = descriptor.close_on_exec ? 1u : 0u;
      if (descriptor.fd == free) {
        plan.call(SYS_fcntl, {fd, F_SETFD, cloexec}, "set close-on-exec of a pidfd");
      } else {
        plan.call(SYS_dup3, {number, fd, cloexec != 0 ? O_CLOEXEC : 0u},
                  fmt::format("place descriptor {}", descriptor.fd), descriptor.fd);
      }
    }
    if (!stays) plan.call(SYS_close, {number}, "close a pidfd");
  }
}

/// Once for each description, by the first number that it has.
void OpenFiles::for_each_of(Description::Kind kind,
                            const std::function<void(int, const Description&)>& visit) const {
  std::set<uint32_t> done;
  for (const Descriptor& descriptor : process_.descriptors) {
    const Description* description = image::find_id(snapshot_.descriptions, descriptor.description);
    if (description == nullptr || description->kind != kind || !done.insert(description->id).second)
      continue;
    visit(descriptor.fd, *description);
  }
}

void OpenFiles::add_watches(PlanWriter& plan) const {
  for_each_of(Description::Kind::epoll, [&](int fd, const Description& description) {
    loader::add_watches(plan, fd, description, snapshot_);
  });
}

void OpenFiles::add_timers(PlanWriter& plan) const {
  for_each_of(Description::Kind::timerfd, [&](int fd, const Description& description) {
    arm_timer(plan, fd, description.timer, snapshot_.realtime_ns);
  });
}

}  // namespace rfork::loader
