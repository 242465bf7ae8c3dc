#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <span>

#include "base/io.h"
#include "tracer/descriptor_owner.h"
#include "tracer/file_locks.h"
#include "tracer/inotify_watches.h"
#include "tracer/inventory.h"
#include "tracer/inventory_sockets.h"
#include "tracer/kernel_objects.h"
#include "tracer/own_channels.h"
#include "tracer/own_fifos.h"
#include "tracer/pseudo_terminals.h"
#include "tracer/shared_objects.h"
#include "tracer/sockets.h"
#include "tracer/special_files.h"

namespace rfork::tracer {

namespace {

using image::Description;
using image::Object;

// A descriptor as /proc shows it.
struct OpenFd {
  pid_t pid = 0;  // who has it: the process, or, of what is on its way in a socket, we
  int fd = 0;
  int carrier = -1;  // the number of a socket in which it is on its way
  std::string path;  // without " (deleted)"
  struct stat status {};
  dev_t terminal = 0;  // the terminal that it leads to, /dev/tty too; 0: none
  int64_t offset = 0;
  int32_t flags = 0;
  bool close_on_exec = false;
  std::string info;  // fdinfo
  Locks locks;
};

std::vector<int> list_fds(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/fd", pid);
  auto fds = try_list_numbers(path);
  if (!fds) throw_errno("open", path);
  return *std::move(fds);
}

bool is_terminal(const struct stat& status) {
  if (!S_ISCHR(status.st_mode)) return false;
  const unsigned number = major(status.st_rdev);
  return number == 4 || number == 5 || (number >= 136 && number <= 143) || number == 204;
}

// /dev/tty is the controlling terminal, and /dev/console one of several.
dev_t terminal_behind(pid_t pid, int fd, const struct stat& status) {
  constexpr unsigned long kGetDevice = _IOR('T', 0x32, unsigned);  // TIOCGDEV, tty_ioctl(2)
  if (!is_terminal(status)) return 0;
  if (major(status.st_rdev) != 5) return status.st_rdev;
  unsigned device = 0;
  const UniqueFd own = duplicate_descriptor(pid, fd);
  if (minor(status.st_rdev) == 2 || ::ioctl(own.get(), kGetDevice, &device) != 0) return 0;
  return makedev((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
}

std::optional<OpenFd> look_at(pid_t pid, int fd) {
  OpenFd open;
  open.pid = pid;
  open.fd = fd;
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, fd);
  const auto link = try_read_link(path);
  const auto info = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/fdinfo/{}", pid, fd));
  if (!link || !info || ::stat(path.c_str(), &open.status) != 0)
    return std::nullopt;  // closed meanwhile
  open.path = *link;
  open.terminal = terminal_behind(pid, fd, open.status);
  constexpr std::string_view kDeleted = " (deleted)";
  // A file with other names left may be called so itself.
  if (open.path.ends_with(kDeleted) &&
      (open.status.st_nlink == 0 || !open_in_process(pid, open.path, O_PATH | O_NOFOLLOW))) {
    open.path.resize(open.path.size() - kDeleted.size());
  }
  open.offset = std::strtoll(value_of(*info, "pos").value_or("0").c_str(), nullptr, 10);
  const auto flags = std::strtol(value_of(*info, "flags").value_or("0").c_str(), nullptr, 8);
  open.locks = parse_locks(*info);
  open.info = *info;
  open.close_on_exec = (flags & O_CLOEXEC) != 0;
  open.flags = static_cast<int32_t>(flags & ~O_CLOEXEC);
  return open;
}

bool same_description(const OpenFd& a, const OpenFd& b) {
  if (a.status.st_ino != b.status.st_ino || a.status.st_dev != b.status.st_dev ||
      a.flags != b.flags)
    return false;
  const long order = ::syscall(SYS_kcmp, a.pid, b.pid, KCMP_FILE, a.fd, b.fd);
  if (order < 0) throw_errno("kcmp", fmt::format("descriptors {} and {} of {}", a.fd, b.fd, a.pid));
  return order == 0;
}

bool is_stateless_device(const struct stat& status) {
  if (!S_ISCHR(status.st_mode) || major(status.st_rdev) != 1) return false;
  const unsigned number = minor(status.st_rdev);
  return number == 3 || number == 5 || number == 7 || number == 8 ||
         number == 9;  // Documentation/admin-guide/devices.txt
}

SpecialFd special(const OpenFd& open) {
  return {open.fd, open.path, open.status, open.flags, open.info};
}

// The file still has the name under which it was opened (or was renamed to).
bool name_leads_to(pid_t pid, const OpenFd& open) {
  const UniqueFd fd = open_in_process(pid, open.path, O_PATH);
  struct stat status {};
  return fd && ::fstat(fd.get(), &status) == 0 && status.st_ino == open.status.st_ino &&
         status.st_dev == open.status.st_dev;
}

uint32_t add_contents(Inventory& inventory, const InventoryInput& input, const OpenFd& open) {
  UniqueFd fd = try_open(fmt::format("/proc/{}/fd/{}", input.pid, open.fd), O_RDONLY);
  if (!fd) {
    inventory.obstacles.push_back(
        {fmt::format("descriptor {} is the deleted file {}, whose contents can't be read", open.fd,
                     open.path),
         fmt::format("--drop-fd {} goes on without it", open.fd)});
    return 0;
  }
  Object object;
  object.kind = open.path.starts_with("/memfd:") ? Object::Kind::memfd : Object::Kind::deleted_file;
  object.name = open.path;
  object.size = static_cast<uint64_t>(open.status.st_size);
  object.mode = open.status.st_mode & 07777;
  if (object.kind == Object::Kind::memfd) {
    const int seals = ::fcntl(fd.get(), F_GET_SEALS);
    object.seals = seals > 0 ? static_cast<uint32_t>(seals) : 0;
  }
  if (open.status.st_blksize > 4096 && object.kind == Object::Kind::memfd) {
    struct statfs file_system {};
    if (::fstatfs(fd.get(), &file_system) == 0 && file_system.f_type == HUGETLBFS_MAGIC) {
      object.huge_page_size = static_cast<uint64_t>(open.status.st_blksize);
    }
  }
  return add_object(inventory, object, open.status.st_dev, open.status.st_ino, std::move(fd));
}

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

// An epoll instance goes on with the files that it was told of, whatever became of their numbers.
// It can be made again only while the numbers still lead there.
bool watches_what_it_names(Inventory& inventory, pid_t pid, const OpenFd& open,
                           const Description& description) {
  for (const image::EpollWatch& watch : description.watches) {
    kcmp_epoll_slot slot{static_cast<uint32_t>(open.fd), static_cast<uint32_t>(watch.fd), 0};
    if (::syscall(SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, watch.fd, &slot) == 0) continue;
    inventory.obstacles.push_back(
        {fmt::format(
             "descriptor {} is an epoll instance that watches what was descriptor {}, which "
             "is closed or another one by now",
             open.fd, watch.fd),
         fmt::format("--drop-fd {} goes on without it", open.fd)});
    return false;
  }
  return true;
}

// To look at it. Whoever opens a file breaks the write lease on it.
UniqueFd open_to_look(const InventoryInput& input, const OpenFd& open, const std::string& path) {
  UniqueFd fd;
  if (!has_write_lease(open.locks)) {
    fd = open_in_process(input.pid, path, O_RDONLY);
  } else if ((open.flags & O_ACCMODE) != O_WRONLY) {
    fd = duplicate_descriptor(open.pid, open.fd);
  }
  return fd ? std::move(fd) : open_in_process(input.pid, path, O_PATH);
}

// A regular file that has its name.
void describe_named(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                    Description& description) {
  description.kind = Description::Kind::regular;
  // O_TMPFILE has the bit of O_DIRECTORY in it; a file that was linked later is like any other.
  if ((description.flags & O_TMPFILE) == O_TMPFILE) description.flags &= ~O_TMPFILE;
  const UniqueFd fd = open_to_look(input, open, description.path);
  if (!fd) throw_errno("open", open.path);
  description.file = add_file(inventory, input.earlier, fd.get(), description.path);
  inventory.open_files.insert(*description.file);
  if ((description.flags & O_ACCMODE) != O_RDONLY)
    inventory.written_files.insert(*description.file);
  if (has_write_lease(open.locks)) inventory.leased_files[*description.file] = open.fd;
}

// Its name is gone or another file's, but it may have others.
bool describe_nameless(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                       Description& description) {
  if (open.status.st_nlink != 0) {
    if (const std::string name = other_name(input, special(open)); !name.empty()) {
      description.path = name;
      describe_named(inventory, input, open, description);
      return true;
    }
    if ((open.flags & O_ACCMODE) != O_RDONLY) {
      inventory.obstacles.push_back(
          {fmt::format("descriptor {} is {}, which has that name no more and another one that "
                       "isn't found: what is written to it would be lost",
                       open.fd, open.path),
           fmt::format("--drop-fd {} goes on without it", open.fd)});
      return false;
    }
  }
  description.kind = Description::Kind::contents;
  description.object = add_contents(inventory, input, open);
  return *description.object != 0;
}

bool describe_file(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                   Description& description) {
  const bool named = open.status.st_nlink != 0 && name_leads_to(input.pid, open);
  if (S_ISREG(open.status.st_mode)) {
    if (!named) return describe_nameless(inventory, input, open, description);
    describe_named(inventory, input, open, description);
    return true;
  }
  description.kind = Description::Kind::directory;
  description.removed = open.status.st_nlink == 0;
  if (named) {
    const UniqueFd fd = open_in_process(input.pid, open.path, O_PATH);
    if (fd) description.file = add_file(inventory, input.earlier, fd.get(), open.path);
  }
  return true;
}

ChannelEnd channel_end(const OpenFd& open, uint32_t description) {
  return {open.pid, open.fd, open.status, open.flags, description};
}

using Finder = std::function<uint32_t(int)>;

// What is on its way between sockets is open here, and has no number in the process.
std::vector<UniqueFd> add_in_flight(std::vector<OpenFd>& opens) {
  std::vector<UniqueFd> held;
  for (size_t i = 0; i < opens.size(); ++i) {  // what is found may have something in it too
    if (!S_ISSOCK(opens[i].status.st_mode)) continue;
    auto passed = passed_in(opens[i].pid, opens[i].fd, opens[i].info);
    if (!passed) continue;  // its own description says so
    for (UniqueFd& fd : *passed) {
      const auto open = look_at(::getpid(), fd.get());
      if (!open || std::ranges::any_of(opens, [&](const OpenFd& known) {
            return same_description(known, *open);
          })) {
        continue;
      }
      opens.push_back(*open);
      opens.back().carrier = opens[i].carrier < 0 ? opens[i].fd : opens[i].carrier;
      held.push_back(std::move(fd));
    }
  }
  return held;
}

// Which of them a descriptor of ours leads to, by its place; 0: none.
uint32_t find_among(const std::vector<OpenFd>& opens, int fd) {
  const auto open = look_at(::getpid(), fd);
  const auto known = std::ranges::find_if(
      opens, [&](const OpenFd& one) { return open && same_description(one, *open); });
  return known == opens.end() ? 0 : static_cast<uint32_t>(known - opens.begin() + 1);
}

// Their state is set through a number, or by the child itself when all else is in place.
bool needs_number(const Description& description) {
  return description.kind == Description::Kind::epoll ||
         description.kind == Description::Kind::timerfd ||
         description.kind == Description::Kind::inotify ||
         description.kind == Description::Kind::pidfd ||
         description.kind == Description::Kind::path ||
         description.kind == Description::Kind::kernel_file;
}

// The description that stands for this terminal already; 0: none.
uint32_t relayed_already(const Inventory& inventory, dev_t terminal) {
  const auto found = inventory.relayed_terminals.find(terminal);
  return terminal == 0 || found == inventory.relayed_terminals.end() ? 0 : found->second;
}

// What leads from the process to itself.
struct Owned {
  OwnChannels channels;
  OwnFifos fifos;
  PseudoTerminals terminals;

  explicit Owned(const InventoryInput& input)
      : channels(input.pid, {input.pid, input.copy}),
        fifos(input.pid, {input.pid, input.copy}),
        terminals(input.pid, {input.pid, input.copy}) {}
};

bool describe_terminal(Inventory& inventory, const InventoryInput& input,
                       const PseudoTerminals& terminals, const OpenFd& open,
                       Description& description) {
  const ChannelEnd end = channel_end(open, description.id);
  terminals.describe(end, description);
  const std::string why = terminals.obstacle(end);
  if (why.empty()) return true;
  inventory.obstacles.push_back(
      {fmt::format("descriptor {} is {} {}", open.fd, in_words(input.pid, special(open)), why),
       fmt::format("try again when it has, or --drop-fd {} goes on without it", open.fd)});
  return false;
}

// Decides how a description is carried; false, with an obstacle noted, when it can't be.
bool describe(Inventory& inventory, const InventoryInput& input, const Owned& owned,
              const Finder& find, const OpenFd& open, bool on_stdio, Description& description) {
  const OwnChannels& channels = owned.channels;
  description.path = open.path;
  description.flags = open.flags;
  description.offset = open.offset;
  const mode_t type = open.status.st_mode;
  const bool stopped = input.earlier != nullptr;
  if (describe_kernel_object({input.pid, open.fd, open.path, open.info, stopped}, description)) {
    return watches_what_it_names(inventory, input.pid, open, description);
  }
  if (describe_bare_path(inventory, input, special(open), description)) return true;
  if (describe_own_pidfd(input.pid, special(open), description)) return true;
  if (is_inotify(open.path)) {
    description.kind = Description::Kind::inotify;
    return true;  // the rest when all others are known
  }
  const ChannelEnd end = channel_end(open, description.id);
  if (owned.fifos.has(end)) {
    owned.fifos.describe(inventory, input, end, description);
    return true;
  }
  if (owned.terminals.has(end)) {
    return describe_terminal(inventory, input, owned.terminals, open, description);
  }
  if (channels.has_pipe(end)) {
    channels.describe_pipe(end, description);
    if (stopped) channels.read_pipe(end, description);
    return true;
  }
  if (S_ISSOCK(type) && (open.flags & O_PATH) == 0) {
    const SocketEnd socket{end, in_words(open.pid, special(open)), find};
    if (const auto carried = add_socket(inventory, input, channels, socket, description)) {
      return *carried;
    }
  }
  if (input.relay && (open.fd != 0 || input.relay_input)) {
    UniqueFd own = duplicate_descriptor(input.pid, open.fd);
    if (const auto relay = relay_type(open, own)) {
      description.kind = Description::Kind::relay;
      description.relay = *relay;
      if (*relay == Description::RelayType::terminal) {
        if (const uint32_t same = relayed_already(inventory, open.terminal); same != 0) {
          description.other = same;
          return true;
        }
        describe_terminal(own.get(), input.relay_input, description);
        inventory.relayed_terminals.emplace(open.terminal, description.id);
      }
      inventory.relays.emplace(description.id, std::move(own));
      return true;
    }
  }
  if ((S_ISREG(type) || S_ISDIR(type)) && !on_kernel_file_system(input.pid, open.fd)) {
    return describe_file(inventory, input, open, description);
  }
  if (describe_kernel_file(input.pid, special(open), description)) return true;
  if (is_stateless_device(open.status)) {
    description.kind = Description::Kind::device;
    return true;
  }
  if (on_stdio && (S_ISFIFO(type) || S_ISSOCK(type) || is_terminal(open.status))) {
    description.kind = Description::Kind::stdio;
    return true;
  }
  inventory.obstacles.push_back({fmt::format("descriptor {} is {}, which can't be carried", open.fd,
                                             in_words(input.pid, special(open))),
                                 fmt::format("--drop-fd {} goes on without it", open.fd)});
  return false;
}

// Standard input that stays with the parent: empty in the child, whatever else leads to the same.
bool gets_no_input(const InventoryInput& input, const OpenFd& open) {
  return open.fd == 0 && input.relay && !input.relay_input &&
         (S_ISFIFO(open.status.st_mode) || S_ISSOCK(open.status.st_mode) ||
          is_terminal(open.status));
}

std::vector<ChannelEnd> channel_ends(const std::vector<OpenFd>& opens) {
  std::vector<ChannelEnd> ends;
  for (size_t i = 0; i < opens.size(); ++i) {
    ends.push_back(channel_end(opens[i], static_cast<uint32_t>(i + 1)));
  }
  return ends;
}

std::vector<KernelObjectFd> shared_candidates(const std::vector<OpenFd>& opens) {
  std::vector<KernelObjectFd> objects;
  for (const OpenFd& open : opens) {
    if (open.path.starts_with("anon_inode:")) objects.push_back({open.fd, open.path, open.info});
  }
  return objects;
}

}  // namespace

UniqueFd duplicate_descriptor(pid_t pid, int fd) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
}

void add_descriptors(Inventory& inventory, const InventoryInput& input) {
  // The first descriptor of each description, and every descriptor with the number of its own.
  std::vector<OpenFd> firsts;
  std::vector<image::Descriptor> descriptors;
  dev_t terminal = 0;
  for (const int fd : list_fds(input.pid)) {
    if (input.drop_fds.contains(fd)) continue;
    const auto open = look_at(input.pid, fd);
    if (!open) continue;
    if (fd <= 2 && open->terminal != 0) terminal = open->terminal;
    const auto known = std::ranges::find_if(firsts, [&](const OpenFd& first) {
      return !gets_no_input(input, first) && !gets_no_input(input, *open) &&
             same_description(first, *open);
    });
    descriptors.push_back(
        {fd, static_cast<uint32_t>(known - firsts.begin() + 1), open->close_on_exec});
    if (known == firsts.end()) firsts.push_back(*open);
  }
  const size_t numbered = firsts.size();
  refuse_shared_objects(inventory, input, shared_candidates(firsts));
  Owned owned(input);
  owned.fifos.look_at(channel_ends(firsts), input.relay);
  owned.terminals.look_at(channel_ends(firsts));
  const std::vector<UniqueFd> on_their_way = add_in_flight(firsts);
  const Finder find = [&](int fd) { return find_among(firsts, fd); };
  owned.channels.look_at(channel_ends(firsts),
                         input.earlier ? input.earlier->own_channels : std::set<ino_t>());
  inventory.own_channels = owned.channels.inodes();
  std::vector<InotifyInstance> instances;
  std::set<uint32_t> carried;
  for (size_t i = 0; i < firsts.size(); ++i) {
    const OpenFd& open = firsts[i];
    const bool on_stdio = open.fd <= 2 || (open.terminal != 0 && open.terminal == terminal);
    Description description;
    description.id = static_cast<uint32_t>(i + 1);
    InventoryInput there = input;
    there.pid = open.pid;
    there.relay = input.relay && i < numbered;
    const size_t obstacles = inventory.obstacles.size();
    const bool described =
        describe(inventory, there, owned, find, open, on_stdio && i < numbered, description);
    if (i >= numbered && (!described || needs_number(description))) {
      inventory.obstacles.resize(obstacles);  // they name a number of ours
      inventory.obstacles.push_back(
          {fmt::format("descriptor {} is a socket with {} on its way in it, which can't be carried",
                       open.carrier, in_words(open.pid, special(open))),
           fmt::format("--drop-fd {} goes on without it", open.carrier)});
      continue;
    }
    if (!described) continue;
    if (!input.drop_locks) add_locks(inventory, open.fd, open.locks, description);
    describe_owner(open.pid, open.fd, description, inventory.obstacles);
    inventory.descriptions.push_back(std::move(description));
    carried.insert(static_cast<uint32_t>(i + 1));
    if (is_inotify(open.path)) {
      instances.push_back({open.fd, static_cast<uint32_t>(i + 1), open.info});
    }
  }
  describe_inotify(inventory, input, instances);
  std::ranges::copy_if(descriptors, std::back_inserter(inventory.descriptors),
                       [&](const auto& one) { return carried.contains(one.description); });
}

}  // namespace rfork::tracer
