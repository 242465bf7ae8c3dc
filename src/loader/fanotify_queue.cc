#include "loader/fanotify_queue.h"

#include <fcntl.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include "base/io.h"
#include "base/unique_fd.h"

namespace rfork::loader {

namespace {

constexpr size_t kMostCapacity = 1 << 17;  // some seconds
constexpr size_t kLeast = sizeof(fanotify_event_metadata), kMost = 64 * kLeast, kLargest = 1 << 14;

/// Events follow one another at any address.
template <typename T>
T read_at(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// Descriptors that the kernel has opened for us.
void close_descriptors(const std::byte* event) {
  const auto head = read_at<fanotify_event_metadata>(event);
  if (head.fd >= 0) ::close(head.fd);
  for (size_t at = head.metadata_len; at + sizeof(fanotify_event_info_header) <= head.event_len;) {
    const auto info = read_at<fanotify_event_info_header>(event + at);
    if (info.len == 0) return;
    if (info.info_type == FAN_EVENT_INFO_TYPE_PIDFD) {
      const int pidfd = read_at<fanotify_event_info_pidfd>(event + at).pidfd;
      if (pidfd >= 0) ::close(pidfd);
    }
    at += info.len;
  }
}

/// What one read gives of at most `most` events, and few at a time: each may bring a descriptor.
/// Empty: there is nothing.
std::vector<FanotifyEvent> read_events(int group, size_t most) {
  Bytes bytes(kLargest);
  ssize_t n = -1;
  for (size_t size = std::min(most * kLeast, kMost); size <= kLargest;) {
    n = ::read(group, bytes.data(), size);
    if (n >= 0 || errno == EAGAIN || errno == EBADF || errno == EFAULT) break;
    // Grown by less than an event, room for one that is large isn't room for two. Any other error
    // is of an event whose file couldn't be opened, which is out of the queue.
    if (errno == EINVAL) size += 8;
  }
  std::vector<FanotifyEvent> events;
  for (ssize_t at = 0; at + static_cast<ssize_t>(kLeast) <= n;) {
    const auto head = read_at<fanotify_event_metadata>(bytes.data() + at);
    events.push_back({head.mask, head.pid});
    close_descriptors(bytes.data() + at);
    at += head.event_len;
  }
  return events;
}

/// A directory for nothing but events, on a file system in memory if there is one.
class Scratch {
 public:
  explicit Scratch(std::string parent) : path_(std::move(parent) + "/.rfork-XXXXXX") {
    if (::mkdtemp(path_.data()) != nullptr) fd_ = try_open(path_, O_RDONLY | O_DIRECTORY);
    if (!fd_) path_.clear();
  }
  ~Scratch() {
    if (!path_.empty()) ::rmdir(path_.c_str());
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  int fd() const { return fd_.get(); }

 private:
  std::string path_;
  UniqueFd fd_;
};

int unread(int group) {
  int bytes = 0;
  return ::ioctl(group, FIONREAD, &bytes) == 0 ? bytes : 0;
}

/// That many events that the kernel doesn't merge: each of a directory of its own, for of what is
/// no directory some groups are told the parent only (fanotify_dfid_inode() of the kernel).
bool make_events_in(const std::string& parent, int group, size_t count) {
  constexpr uint64_t kMask = FAN_OPEN | FAN_ONDIR | FAN_EVENT_ON_CHILD;
  const Scratch scratch(parent);
  const int before = unread(group);
  if (scratch.fd() < 0 || ::fanotify_mark(group, FAN_MARK_ADD, kMask, scratch.fd(), nullptr) != 0) {
    return false;
  }
  bool made = true;
  for (; made && count > 0; --count) {
    made = ::mkdirat(scratch.fd(), "x", 0700) == 0;
    try_open_at(scratch.fd(), "x", O_RDONLY | O_DIRECTORY);
    ::unlinkat(scratch.fd(), "x", AT_REMOVEDIR);
  }
  ::fanotify_mark(group, FAN_MARK_REMOVE, kMask, scratch.fd(), nullptr);
  return made && unread(group) > before;
}

bool make_events(int group, size_t count) {
  return make_events_in("/dev/shm", group, count) || make_events_in("/tmp", group, count);
}

}  // namespace

std::vector<FanotifyEvent> take_events(int group) {
  std::vector<FanotifyEvent> events;
  for (;;) {
    const std::vector<FanotifyEvent> more = read_events(group, SIZE_MAX / kLeast);
    if (more.empty()) return events;
    events.insert(events.end(), more.begin(), more.end());
  }
}

size_t fanotify_capacity() {
  const auto text = try_read_file_at(AT_FDCWD, "/proc/sys/fs/fanotify/max_queued_events");
  const long capacity = text ? std::atol(text->c_str()) : 0;
  return capacity > 0 && capacity <= static_cast<long>(kMostCapacity)
             ? static_cast<size_t>(capacity)
             : 0;
}

bool can_make_event(int group) {
  const bool can = make_events(group, 1);
  take_events(group);
  return can;
}

void make_overflow(int group, size_t capacity) {
  if (!make_events(group, capacity + 1)) return;
  // Behind as many events as the queue holds comes the one that tells of the others.
  for (size_t left = capacity; left > 0;) {
    const size_t taken = read_events(group, left).size();
    if (taken == 0) return;
    left -= std::min(left, taken);
  }
}

}  // namespace rfork::loader
