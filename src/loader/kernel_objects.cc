#include "loader/kernel_objects.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/io.h"

namespace rfork::loader {

using image::Description;

namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS

UniqueFd make_eventfd(const Description& description) {
  UniqueFd fd(
      ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (description.semaphore ? EFD_SEMAPHORE : 0)));
  if (fd && description.count > 0 &&
      ::write(fd.get(), &description.count, sizeof description.count) < 0) {
    fd.reset();
  }
  return fd;
}

UniqueFd make_timerfd(const Description& description, Findings& findings) {
  UniqueFd fd(::timerfd_create(description.timer.clock, TFD_CLOEXEC));
  if (fd && description.timer.ticks > 0 &&
      ::ioctl(fd.get(), kSetTicks, &description.timer.ticks) != 0) {
    findings.warn(fmt::format("a timerfd has forgotten {} expirations: this kernel can't set them",
                              description.timer.ticks));
  }
  return fd;
}

const char* kind_word(Description::Kind kind) {
  switch (kind) {
    case Description::Kind::eventfd:
      return "an eventfd";
    case Description::Kind::signalfd:
      return "a signalfd";
    case Description::Kind::timerfd:
      return "a timerfd";
    default:
      return "an epoll instance";
  }
}

UniqueFd make(const Description& description, Findings& findings) {
  switch (description.kind) {
    case Description::Kind::eventfd:
      return make_eventfd(description);
    case Description::Kind::signalfd:
      return UniqueFd(static_cast<int>(::syscall(SYS_signalfd4, -1, &description.signal_mask,
                                                 sizeof description.signal_mask, SFD_CLOEXEC)));
    case Description::Kind::timerfd:
      return make_timerfd(description, findings);
    default:
      return UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  }
}

/// O_DIRECT if what is written to the pipe stays in packets: only its writers have the flag.
int packet_mode(const image::Snapshot& snapshot, const Description& pipe) {
  return std::ranges::any_of(snapshot.descriptions,
                             [&](const Description& one) {
                               return one.kind == pipe.kind && one.other == pipe.other &&
                                      (one.flags & O_DIRECT) != 0;
                             })
             ? O_DIRECT
             : 0;
}

}  // namespace

void set_status_flags(int fd, int32_t flags) {
  constexpr int32_t kSettable = O_NONBLOCK | O_APPEND | O_DIRECT;
  (void)::fcntl(fd, F_SETFL, flags & kSettable);
}

void fill_pipe(int fd, const Description& description, Findings& findings) {
  if (description.capacity > 0 &&
      ::fcntl(fd, F_SETPIPE_SZ, static_cast<int>(description.capacity)) < 0) {
    findings.warn(fmt::format("a pipe holds less than its {} bytes here: {}", description.capacity,
                              std::strerror(errno)));
  }
  for (const Bytes& part : description.queued) {
    if (::write(fd, part.data(), part.size()) != static_cast<ssize_t>(part.size())) {
      findings.refuse(fmt::format("the {} bytes in a pipe don't fit into one here", part.size()),
                      "see /proc/sys/fs/pipe-user-pages-soft");
      return;
    }
  }
}

UniqueFd make_kernel_object(const Description& description, Findings& findings) {
  UniqueFd fd = make(description, findings);
  if (!fd) {
    findings.refuse(fmt::format("{} can't be made here: {}", kind_word(description.kind),
                                std::strerror(errno)));
    return fd;
  }
  set_status_flags(fd.get(), description.flags);
  return fd;
}

UniqueFd PipeMaker::open(const Description& description, Findings& findings) {
  UniqueFd fd = open_end(description, findings);
  if (fd) set_status_flags(fd.get(), description.flags);
  return fd;
}

UniqueFd PipeMaker::open_end(const Description& description, Findings& findings) {
  Pipe& pipe = pipes_[description.other];
  if (!pipe.both) {
    const Description* const first = image::find_id(snapshot_.descriptions, description.other);
    int ends[2];
    if (first == nullptr ||
        ::pipe2(ends, O_CLOEXEC | O_NONBLOCK | packet_mode(snapshot_, *first)) != 0) {
      findings.refuse(fmt::format("a pipe can't be made here: {}", std::strerror(errno)));
      return {};
    }
    pipe.reader.reset(ends[0]);
    pipe.writer.reset(ends[1]);
    fill_pipe(pipe.writer.get(), *first, findings);
    pipe.both = try_open(fmt::format("/proc/self/fd/{}", ends[0]), O_RDWR | O_NONBLOCK);
  }
  const int access = description.flags & O_ACCMODE;
  UniqueFd& made = access == O_RDONLY ? pipe.reader : pipe.writer;
  if (access != O_RDWR && made) return std::move(made);
  // A second description of the same end, or one for both.
  return try_open(fmt::format("/proc/self/fd/{}", pipe.both.get()),
                  (description.flags & (O_ACCMODE | O_DIRECT)) | O_NONBLOCK);
}

void arm_timer(PlanWriter& plan, int fd, const image::FileTimer& timer, int64_t realtime_ns) {
  const uint64_t number = static_cast<uint64_t>(fd);
  const auto set_ticks = [&] {
    if (timer.ticks == 0) return;
    plan.try_call(SYS_ioctl, {number, kSetTicks, plan.value(timer.ticks)}, "set expirations");
  };
  // Of an image of old, which tells of a periodic timer that has expired only that.
  const int64_t rest = timer.value_ns == 0 && timer.ticks > 0 ? timer.interval_ns : timer.value_ns;
  if (rest == 0) return set_ticks();
  // A moment of the calendar stays one; of the other clocks, which go on where they were, the rest.
  const bool moment = (timer.flags & TFD_TIMER_ABSTIME) != 0 &&
                      (timer.clock == CLOCK_REALTIME || timer.clock == CLOCK_REALTIME_ALARM);
  const int64_t due = moment ? realtime_ns + rest : rest;
  itimerspec value{};
  value.it_value = {due / kSecond, due % kSecond};
  value.it_interval = {timer.interval_ns / kSecond, timer.interval_ns % kSecond};
  plan.call(SYS_timerfd_settime,
            {number, static_cast<uint64_t>(moment ? timer.flags : 0), plan.value(value), 0},
            fmt::format("set the timer of descriptor {}", fd));
  set_ticks();  // after it: setting the time forgets them
}

namespace {

constexpr size_t kEventsAtOnce = 64;

void add_watch(PlanWriter& plan, int fd, const image::EpollWatch& watch) {
  epoll_event event{};
  event.events = watch.events;
  event.data.u64 = watch.data;
  // What stands in for a terminal or a pipe of a copy may be a file, which is always ready and
  // can't be watched.
  plan.try_call(SYS_epoll_ctl,
                {static_cast<uint64_t>(fd), EPOLL_CTL_ADD, static_cast<uint64_t>(watch.fd),
                 plan.value(event)},
                fmt::format("watch descriptor {} by {}", watch.fd, fd));
}

/// Edge-triggered, and what the file is ready for was told before.
bool was_told(const Description& epoll, const image::EpollWatch& watch) {
  return epoll.count != 0 && (watch.events & (EPOLLET | EPOLLONESHOT)) == EPOLLET;
}

/// Whether nobody but the process itself, which doesn't run yet, can make the file ready.
bool is_private(const Description& description) {
  switch (description.kind) {
    case Description::Kind::eventfd:
    case Description::Kind::pipe:
      return true;
    case Description::Kind::socket:
      return description.socket && description.socket->family == AF_UNIX &&
             description.socket->connected && !description.socket->listening &&
             (description.other != 0 || description.socket->peer_gone);
    default:
      return false;
  }
}

}  // namespace

uint64_t operations_for_watches(const Description& description) {
  const size_t watches = description.watches.size();
  return watches + watches / kEventsAtOnce + 1;
}

void add_watches(PlanWriter& plan, int fd, const Description& description,
                 const image::Snapshot& snapshot) {
  std::vector<const image::EpollWatch*> quiet, others;
  for (const image::EpollWatch& watch : description.watches) {
    const auto& descriptors = snapshot.processes.at(0).descriptors;
    const auto own = std::ranges::find(descriptors, watch.fd, &image::Descriptor::fd);
    if (own == descriptors.end()) continue;  // its loss was accepted
    const Description* const watched = image::find_id(snapshot.descriptions, own->description);
    const bool told = was_told(description, watch) && watched != nullptr && is_private(*watched);
    (told ? quiet : others).push_back(&watch);
  }
  for (const image::EpollWatch* watch : quiet) add_watch(plan, fd, *watch);
  // Taking an edge is what makes a watch quiet: so before there is any whose edge is wanted.
  const size_t takes = (quiet.size() + kEventsAtOnce - 1) / kEventsAtOnce;
  const uint64_t taken = takes == 0 ? 0 : plan.data(Bytes(kEventsAtOnce * sizeof(epoll_event)));
  for (size_t i = 0; i < takes; ++i) {
    plan.try_call(SYS_epoll_wait, {static_cast<uint64_t>(fd), taken, kEventsAtOnce, 0},
                  fmt::format("take what epoll instance {} has told", fd));
  }
  for (const image::EpollWatch* watch : others) add_watch(plan, fd, *watch);
}

}  // namespace rfork::loader
