#include "tracer/kernel_objects.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>

#include "base/io.h"
#include "tracer/inventory.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

using image::Description;

constexpr int64_t kSecond = 1'000'000'000;

uint64_t number_of(const std::string& info, std::string_view key, int base) {
  return std::strtoull(value_of(info, key).value_or("0").c_str(), nullptr, base);
}

bool take(int fd, uint64_t& value) {
  return ::read(fd, &value, sizeof value) == sizeof value;
}
bool give(int fd, uint64_t value) {
  return value == 0 || ::write(fd, &value, sizeof value) == sizeof value;
}

/// Kernels before 6.5 don't tell. With two or more in it, a read takes one from a semaphore, else
/// all. Afterwards it holds `count` again.
bool is_semaphore(int fd, uint64_t count) {
  uint64_t value = 0;
  const uint64_t added = count < 2 ? 2 - count : 0;
  if (!give(fd, added) || !take(fd, value)) return false;
  const bool semaphore = value == 1;
  if (!semaphore) {
    give(fd, count);
  } else if (added == 0) {
    give(fd, 1);
  } else {
    for (uint64_t rest = added - 1; rest > 0; --rest) take(fd, value);
  }
  return semaphore;
}

void describe_eventfd(const KernelObject& object, Description& description) {
  description.kind = Description::Kind::eventfd;
  description.count = number_of(object.info, "eventfd-count", 16);
  if (const auto told = value_of(object.info, "eventfd-semaphore")) {
    description.semaphore = *told != "0";
  } else if (object.stopped) {
    const UniqueFd own = duplicate_descriptor(object.pid, object.fd);
    description.semaphore = own && is_semaphore(own.get(), description.count);
  }
}

int64_t time_of(const std::string& info, std::string_view key) {
  long long seconds = 0, nanoseconds = 0;
  const std::string text = value_of(info, key).value_or("");
  if (std::sscanf(text.c_str(), "(%lld, %lld)", &seconds, &nanoseconds) != 2) return 0;
  return seconds * kSecond + nanoseconds;
}

// fdinfo counts only the first expiration of a periodic timer that nobody reads: a read adds the
// others. timerfd_gettime(2) does too (fs/timerfd.c: do_timerfd_gettime), and then fdinfo has all.
std::string counted(const KernelObject& object) {
  const std::string& info = object.info;
  if (!object.stopped || number_of(info, "ticks", 10) == 0 || time_of(info, "it_interval") == 0) {
    return info;
  }
  const UniqueFd own = duplicate_descriptor(object.pid, object.fd);
  itimerspec rest{};
  if (!own || ::timerfd_gettime(own.get(), &rest) != 0) return info;
  return try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/fdinfo/{}", object.pid, object.fd))
      .value_or(info);
}

void describe_timerfd(const KernelObject& object, Description& description) {
  const std::string info = counted(object);
  description.kind = Description::Kind::timerfd;
  description.timer.clock = static_cast<int32_t>(number_of(info, "clockid", 10));
  description.timer.flags = static_cast<int32_t>(number_of(info, "settime flags", 8));
  description.timer.ticks = number_of(info, "ticks", 10);
  description.timer.value_ns = time_of(info, "it_value");
  description.timer.interval_ns = time_of(info, "it_interval");
}

short state_of(int fd, short events) {
  pollfd one{fd, events, 0};
  return ::poll(&one, 1, 0) >= 0 ? one.revents : static_cast<short>(POLLNVAL);
}

/// Whether all that edge-triggered watches had to say was told: the instance isn't readable. Which
/// of them have told it, where it is readable, can be had only by taking it from the process.
bool is_quiet(const KernelObject& object, const Description& description) {
  constexpr uint32_t kMode = EPOLLET | EPOLLOUT;
  const UniqueFd own = duplicate_descriptor(object.pid, object.fd);
  if (!own || state_of(own.get(), POLLIN) != 0) return false;
  // What is full here may have room where it is filled again, which the process wasn't told yet.
  return std::ranges::none_of(description.watches, [&](const image::EpollWatch& watch) {
    if ((watch.events & kMode) != kMode) return false;
    const UniqueFd watched = duplicate_descriptor(object.pid, watch.fd);
    return !watched || (state_of(watched.get(), POLLOUT) & POLLOUT) == 0;
  });
}

void describe_epoll(const KernelObject& object, Description& description) {
  description.kind = Description::Kind::epoll;
  for (const std::string_view line : split(object.info, '\n')) {
    image::EpollWatch watch;
    if (std::sscanf(std::string(line).c_str(),
                    "tfd: %" SCNd32 " events: %" SCNx32 " data: %" SCNx64, &watch.fd, &watch.events,
                    &watch.data) == 3) {
      description.watches.push_back(watch);
    }
  }
  if (object.stopped) description.count = is_quiet(object, description) ? 1 : 0;
}

}  // namespace

bool describe_kernel_object(const KernelObject& object, Description& description) {
  if (object.path == "anon_inode:[eventfd]") {
    describe_eventfd(object, description);
  } else if (object.path == "anon_inode:[signalfd]") {
    description.kind = Description::Kind::signalfd;
    description.signal_mask = number_of(object.info, "sigmask", 16);
  } else if (object.path == "anon_inode:[timerfd]") {
    describe_timerfd(object, description);
  } else if (object.path == "anon_inode:[eventpoll]") {
    describe_epoll(object, description);
  } else {
    return false;
  }
  return true;
}

}  // namespace rfork::tracer
