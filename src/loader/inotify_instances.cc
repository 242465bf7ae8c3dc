#include "loader/inotify_instances.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/io.h"
#include "loader/watched_file.h"

namespace rfork::loader {

using image::Description;
using image::InotifyWatch;

namespace {

constexpr int32_t kMaxGap = 1 << 20;  // a second or so
constexpr uint32_t kChanges = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVE | IN_CREATE |
                              IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED;
constexpr std::string_view kOwnName = ".rfork-";  // CreatedFiles

struct Event {
  int wd = 0;
  uint32_t mask = 0, cookie = 0;
  std::string name;
};

/// What one read gives of at most `size` bytes; empty: nothing, or it doesn't fit. Never blocks.
std::vector<Event> read_events(int fd, size_t size) {
  int waiting = 0;
  if (::ioctl(fd, FIONREAD, &waiting) != 0 || waiting == 0) return {};
  Bytes bytes(std::min(size, static_cast<size_t>(waiting)));
  const ssize_t n = ::read(fd, bytes.data(), bytes.size());
  std::vector<Event> events;
  for (size_t at = 0; n > 0 && at + sizeof(inotify_event) <= static_cast<size_t>(n);) {
    const auto* const head = reinterpret_cast<const inotify_event*>(bytes.data() + at);
    events.push_back({head->wd, head->mask, head->cookie, head->len > 0 ? head->name : ""});
    at += sizeof *head + head->len;
  }
  return events;
}

/// All events that wait, out of the queue.
std::vector<Event> take_events(int fd) {
  std::vector<Event> events;
  for (;;) {
    const std::vector<Event> more = read_events(fd, SIZE_MAX);
    if (more.empty()) return events;
    events.insert(events.end(), more.begin(), more.end());
  }
}

/// The queue is filled until the kernel says that it lost events, and all but that is taken out.
void make_overflow(int fd) {
  const auto text = try_read_file_at(AT_FDCWD, "/proc/sys/fs/inotify/max_queued_events");
  const long capacity = text ? std::atol(text->c_str()) : 0;
  if (capacity <= 0 || capacity > (1 << 22)) return;
  const UniqueFd file = make_memfd("rfork-inotify");
  const int wd = ::inotify_add_watch(fd, own_link(file.get()).c_str(), IN_OPEN | IN_CLOSE);
  if (wd < 0) return;
  for (long i = 0; i <= capacity / 2; ++i) try_open(own_link(file.get()), O_RDONLY);
  ::inotify_rm_watch(fd, wd);  // its IN_IGNORED finds the queue full
  // Behind as many events as the queue holds comes the one that tells of the others.
  for (size_t left = static_cast<size_t>(capacity); left > 0;) {
    const size_t taken = read_events(fd, left * sizeof(inotify_event)).size();
    if (taken == 0) return;
    left -= std::min(left, taken);
  }
}

}  // namespace

bool InotifyInstances::fill_gap(int fd, int32_t& next, int32_t until) {
  if (until - next > kMaxGap) return false;
  const UniqueFd file = make_memfd("rfork-inotify");
  const std::string path = own_link(file.get());
  for (; next < until; ++next) {
    const int wd = ::inotify_add_watch(fd, path.c_str(), IN_MODIFY);
    if (wd != next || ::inotify_rm_watch(fd, wd) != 0) return false;
    if (next % 4096 == 0) take_events(fd);
  }
  take_events(fd);
  return true;
}

bool InotifyInstances::set_watch(Instance& instance, const InotifyWatch& watch,
                                 Findings& findings) {
  const FoundFile file = find_watched(files_, watched_file(watch));
  const uint32_t mask = watch.mask | IN_MASK_CREATE;
  if (file.missing == nullptr) {
    if (::inotify_add_watch(instance.fd.get(), file.path.c_str(), mask) == watch.wd) {
      if (file.carried) instance.wds.written.insert(watch.wd);
      return true;
    }
    if (errno != EEXIST) {
      findings.refuse(fmt::format("{} can't be watched here: {}", watch.path, std::strerror(errno)),
                      errno == ENOSPC ? "see /proc/sys/fs/inotify/max_user_watches" : "");
      return false;
    }
  }
  findings.warn(fmt::format(
      "{}, which was watched, {}: the watch ends", watch.path,
      file.missing != nullptr ? file.missing : "is the same as another watched file here"));
  const UniqueFd& stand_in = instance.wds.gone[watch.wd] = make_memfd("rfork-inotify");
  return ::inotify_add_watch(instance.fd.get(), own_link(stand_in.get()).c_str(), IN_MODIFY) ==
         watch.wd;
}

UniqueFd InotifyInstances::make(const Description& description, Findings& findings) {
  Instance instance;
  instance.description = &description;
  instance.fd.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!instance.fd) {
    findings.refuse(fmt::format("an inotify instance can't be made here: {}", std::strerror(errno)),
                    "see /proc/sys/fs/inotify/max_user_instances");
    return {};
  }
  int32_t next = 1;
  for (const InotifyWatch& watch : description.inotify) {
    const size_t reasons = findings.reasons.size();
    if (!fill_gap(instance.fd.get(), next, watch.wd) || !set_watch(instance, watch, findings)) {
      if (findings.reasons.size() == reasons) {
        findings.refuse(fmt::format("the watch {} of {} can't have its number {} here",
                                    description.id, watch.path, watch.wd));
      }
      return {};
    }
    ++next;
  }
  (void)::fcntl(instance.fd.get(), F_SETFL, description.flags & O_NONBLOCK);
  UniqueFd handed(::fcntl(instance.fd.get(), F_DUPFD_CLOEXEC, 0));
  instances_.push_back(std::move(instance));
  return handed;
}

/// Whether something happened to what is watched since the capture that nobody has told the child.
bool InotifyInstances::missed_events(const Instance& instance) const {
  bool missed = instance.description->count > 0;
  std::set<uint32_t> own_renames;
  for (const Event& event : take_events(instance.fd.get())) {
    const bool own = event.name.find(kOwnName) != std::string::npos ||
                     own_renames.contains(event.cookie) || instance.wds.written.contains(event.wd);
    if (own && event.cookie != 0) own_renames.insert(event.cookie);
    missed = missed || (!own && (event.mask & kChanges) != 0);
  }
  for (const InotifyWatch& watch : instance.description->inotify) {
    missed = missed ||
             (!instance.wds.gone.contains(watch.wd) && changed_since(files_, watched_file(watch)));
  }
  return missed;
}

void InotifyInstances::begin_queues() {
  for (Instance& instance : instances_) {
    if (missed_events(instance)) make_overflow(instance.fd.get());
    for (const auto& [wd, file] : instance.wds.gone) ::inotify_rm_watch(instance.fd.get(), wd);
  }
  instances_.clear();
}

}  // namespace rfork::loader
