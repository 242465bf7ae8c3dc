#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>

#include "base/io.h"
#include "tracer/describe_fd.h"
#include "tracer/descriptor_owner.h"
#include "tracer/fanotify_marks.h"
#include "tracer/file_locks.h"
#include "tracer/inotify_watches.h"
#include "tracer/inventory.h"
#include "tracer/inventory_sockets.h"
#include "tracer/kernel_objects.h"
#include "tracer/open_fd.h"
#include "tracer/own_channels.h"
#include "tracer/own_fifos.h"
#include "tracer/pseudo_terminals.h"
#include "tracer/shared_objects.h"
#include "tracer/sockets.h"
#include "tracer/special_files.h"

namespace rfork::tracer {

namespace {

using image::Description;

bool is_stateless_device(const struct stat& status) {
  if (!S_ISCHR(status.st_mode) || major(status.st_rdev) != 1) return false;
  const unsigned number = minor(status.st_rdev);
  return number == 3 || number == 5 || number == 7 || number == 8 ||
         number == 9;  // Documentation/admin-guide/devices.txt
}

// A watch of an epoll instance, by the number that it was made with: of several with the same one
// the `index`th.
struct WatchSlot {
  pid_t pid = 0;
  int epoll = 0;
  int32_t fd = 0;
  uint32_t index = 0;

  // Whether descriptor `other` is of the file that is watched.
  bool leads_to(int other) const {
    kcmp_epoll_slot slot{static_cast<uint32_t>(epoll), static_cast<uint32_t>(fd), index};
    return ::syscall(SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, other, &slot) == 0;
  }
};

// An epoll instance goes on with the files that it was told of, whatever became of their numbers.
// Where one leads elsewhere, another of the same open file stands for it.
bool name_watches(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                  Description& description) {
  std::set<int> used;
  std::map<int32_t, uint32_t> indices;
  std::vector<std::pair<image::EpollWatch*, WatchSlot>> lost;
  for (image::EpollWatch& watch : description.watches) {
    const WatchSlot slot{input.pid, open.fd, watch.fd, indices[watch.fd]++};
    if (slot.leads_to(watch.fd)) {
      used.insert(watch.fd);
    } else {
      lost.emplace_back(&watch, slot);
    }
  }
  for (auto& [watch, slot] : lost) {
    const std::vector<int> fds = list_fds(input.pid);
    const auto other = std::ranges::find_if(fds, [&, &slot = slot](int fd) {
      return !used.contains(fd) && !input.drop_fds.contains(fd) && slot.leads_to(fd);
    });
    if (other == fds.end()) {
      inventory.obstacles.push_back(
          {fmt::format("descriptor {} is an epoll instance that watches what was descriptor {}, "
                       "which is closed or another one by now",
                       open.fd, watch->fd),
           fmt::format("--drop-fd {} goes on without it", open.fd)});
      return false;
    }
    used.insert(*other);
    watch->fd = *other;
  }
  return true;
}

ChannelEnd channel_end(const OpenFd& open, uint32_t description) {
  return {open.pid, open.fd, open.status, open.flags, description};
}

using Finder = std::function<uint32_t(int)>;

// What is on its way between sockets is open here, and has no number in the process.
std::vector<UniqueFd> add_in_flight(std::vector<OpenFd>& opens, DescriptionIndex& index) {
  std::vector<UniqueFd> held;
  for (size_t i = 0; i < opens.size(); ++i) {  // what is found may have something in it too
    if (!S_ISSOCK(opens[i].status.st_mode)) continue;
    auto passed = passed_in(opens[i].pid, opens[i].fd, opens[i].info);
    if (!passed) continue;  // its own description says so
    for (UniqueFd& fd : *passed) {
      const auto open = look_at_fd(::getpid(), fd.get());
      if (!open || index.find(*open) != 0) continue;
      opens.push_back(*open);
      index.add(*open, static_cast<uint32_t>(opens.size()));
      opens.back().carrier = opens[i].carrier < 0 ? opens[i].fd : opens[i].carrier;
      held.push_back(std::move(fd));
    }
  }
  return held;
}

// Their state is set through a number, or by the child itself when all else is in place.
bool needs_number(const Description& description) {
  return description.kind == Description::Kind::epoll ||
         description.kind == Description::Kind::timerfd ||
         description.kind == Description::Kind::inotify ||
         description.kind == Description::Kind::fanotify ||
         description.kind == Description::Kind::pidfd ||
         description.kind == Description::Kind::path ||
         description.kind == Description::Kind::kernel_file;
}

std::optional<Description::Kind> watcher_kind(const std::string& link) {
  if (is_inotify(link)) return Description::Kind::inotify;
  if (is_fanotify(link)) return Description::Kind::fanotify;
  return std::nullopt;
}

// What leads from the process to itself.
struct Owned {
  OwnChannels channels;
  OwnFifos fifos;
  PseudoTerminals terminals;

  explicit Owned(const InventoryInput& input)
      // The child of rfork() shares the rest of a pipe with its parent, through a relay.
      : channels(input.pid, {input.pid, input.copy}, !(input.forked && input.relay)),
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

// How to go on where a descriptor can't be carried.
std::string advice_without(const InventoryInput& input, const OpenFd& open) {
  const std::string drop = fmt::format("--drop-fd {} goes on without it", open.fd);
  if (!input.move || !S_ISSOCK(open.status.st_mode)) return drop;
  const UniqueFd own = duplicate_descriptor(open.pid, open.fd);
  if (!own || !is_tcp_connection(own.get())) return drop;
  return "--keep-tcp keeps it on this host, or " + drop;
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
    return name_watches(inventory, input, open, description);
  }
  if (describe_bare_path(inventory, input, special(open), description)) return true;
  if (describe_own_pidfd(input.pid, special(open), description)) return true;
  if (const auto kind = watcher_kind(open.path)) {
    description.kind = *kind;
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
  if (describe_relay(inventory, input, open, description)) return true;
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
                                 advice_without(input, open)});
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
  DescriptionIndex index;  // their numbers
  std::vector<image::Descriptor> descriptors;
  dev_t terminal = 0;
  for (const int fd : list_fds(input.pid)) {
    if (input.drop_fds.contains(fd)) continue;
    const auto open = look_at_fd(input.pid, fd);
    if (!open) {
      if (is_path_too_long(fmt::format("/proc/{}/fd/{}", input.pid, fd))) {
        inventory.obstacles.push_back(
            {fmt::format("descriptor {} has a longer path than the kernel tells, and can't be "
                         "carried",
                         fd),
             fmt::format("--drop-fd {} goes on without it", fd)});
      }
      continue;
    }
    if (fd <= 2 && open->terminal != 0) terminal = open->terminal;
    const bool apart = gets_no_input(input, *open);
    uint32_t number = apart ? 0 : index.find(*open);
    if (number == 0) {
      firsts.push_back(*open);
      number = static_cast<uint32_t>(firsts.size());
      if (!apart) index.add(*open, number);
    }
    descriptors.push_back({fd, number, open->close_on_exec});
  }
  const size_t numbered = firsts.size();
  refuse_shared_objects(inventory, input, shared_candidates(firsts));
  Owned owned(input);
  owned.fifos.look_at(channel_ends(firsts), input.relay, !input.forked);
  owned.terminals.look_at(channel_ends(firsts));
  const std::vector<UniqueFd> on_their_way = add_in_flight(firsts, index);
  const Finder find = [&](int fd) {
    const auto open = look_at_fd(::getpid(), fd);
    return open ? index.find(*open) : 0;
  };
  owned.channels.look_at(channel_ends(firsts),
                         input.earlier ? input.earlier->own_channels : std::set<ino_t>());
  inventory.own_channels = owned.channels.inodes();
  InventoryInput passed = input;  // what is on its way is ours by now
  passed.pid = ::getpid();
  passed.relay = false;
  std::map<Description::Kind, std::vector<WatcherFd>> watchers;
  std::set<uint32_t> carried;
  for (size_t i = 0; i < firsts.size(); ++i) {
    const OpenFd& open = firsts[i];
    const bool on_stdio = open.fd <= 2 || (open.terminal != 0 && open.terminal == terminal);
    Description description;
    description.id = static_cast<uint32_t>(i + 1);
    const size_t obstacles = inventory.obstacles.size();
    const bool described = describe(inventory, i < numbered ? input : passed, owned, find, open,
                                    on_stdio && i < numbered, description);
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
    if (const auto kind = watcher_kind(open.path)) {
      watchers[*kind].push_back({open.fd, static_cast<uint32_t>(i + 1), open.info});
    }
  }
  describe_inotify(inventory, input, watchers[Description::Kind::inotify]);
  describe_fanotify(inventory, input, watchers[Description::Kind::fanotify]);
  std::ranges::copy_if(descriptors, std::back_inserter(inventory.descriptors),
                       [&](const auto& one) { return carried.contains(one.description); });
}

}  // namespace rfork::tracer
