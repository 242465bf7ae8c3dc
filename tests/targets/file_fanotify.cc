// Groups of fanotify: marks of directories, files, links and a deleted file keep their events and
// what they ignore, and report; `wide` marks of a mount and of a file system, which need root, too.
// `unread`: with an event in the queue, in whose place a copy may find FAN_Q_OVERFLOW.
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "made_files.h"
#include "target.h"

namespace {

struct Event {
  uint64_t mask = 0;
  pid_t pid = 0;
  std::string name;    // of a group with FAN_REPORT_NAME, or the path of the descriptor
  std::string handle;  // of a group with FAN_REPORT_FID
};

void add_info(const fanotify_event_info_header& info, Event& event) {
  if (info.info_type == FAN_EVENT_INFO_TYPE_PIDFD) {
    const int pidfd = reinterpret_cast<const fanotify_event_info_pidfd&>(info).pidfd;
    if (pidfd >= 0) close(pidfd);
    return;
  }
  const auto& of_file = reinterpret_cast<const fanotify_event_info_fid&>(info);
  const auto* handle = reinterpret_cast<const file_handle*>(of_file.handle);
  const auto* bytes = reinterpret_cast<const char*>(handle->f_handle);
  event.handle.assign(bytes, handle->handle_bytes);
  if (info.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME) event.name = bytes + handle->handle_bytes;
}

std::string name_of(int fd) {
  char path[PATH_MAX]{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  MUST(readlink(link.c_str(), path, sizeof path - 1));
  close(fd);
  return path;
}

std::vector<Event> read_events(int fd) {
  alignas(fanotify_event_metadata) char bytes[2048];  // not too many descriptors at once
  std::vector<Event> events;
  const ssize_t size = read(fd, bytes, sizeof bytes);
  for (ssize_t at = 0; at < size;) {
    const auto* head = reinterpret_cast<const fanotify_event_metadata*>(bytes + at);
    Event event{head->mask, head->pid, "", ""};
    if (head->fd >= 0) event.name = name_of(head->fd);
    for (size_t next = head->metadata_len; next < head->event_len;) {
      const auto* info = reinterpret_cast<const fanotify_event_info_header*>(bytes + at + next);
      add_info(*info, event);
      next += info->len;
    }
    events.push_back(event);
    at += head->event_len;
  }
  return events;
}

std::string handle_of(int fd) {
  alignas(file_handle) char bytes[sizeof(file_handle) + MAX_HANDLE_SZ];
  auto* handle = reinterpret_cast<file_handle*>(bytes);
  handle->handle_bytes = MAX_HANDLE_SZ;
  int mount = 0;
  MUST(name_to_handle_at(fd, "", handle, &mount, AT_EMPTY_PATH));
  return {reinterpret_cast<const char*>(handle->f_handle), handle->handle_bytes};
}

struct Group {
  int fd;
  std::vector<Event> seen;
  std::string info;

  Group(unsigned flags, unsigned event_flags) : fd(fanotify_init(flags, event_flags)) {
    if (fd < 0 && errno == EPERM) target::skip("fanotify_init: it needs CAP_SYS_ADMIN");
    MUST(fd);
  }
  void mark(const std::string& file, uint64_t mask, unsigned flags = 0) {
    if (fanotify_mark(fd, FAN_MARK_ADD | flags, mask, AT_FDCWD, file.c_str()) == 0) return;
    if (errno == EOPNOTSUPP || errno == EXDEV || errno == ENODEV) {
      target::skip("fanotify_mark: %s has no file handles", file.c_str());
    }
    target::fail("fanotify_mark of %s: %s", file.c_str(), std::strerror(errno));
  }
  // What the kernel tells of the group and its marks but their inodes and mounts, which may differ.
  std::string told() const {
    const std::string path = "/proc/self/fdinfo/" + std::to_string(fd);
    const std::string text = target::read_file(path.c_str());
    std::vector<std::string> lines;
    for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
      const std::string line = text.substr(at, text.find('\n', at) - at);
      if (!line.starts_with("fanotify ")) continue;
      const size_t start = line.find(" mflags:");
      const size_t end = line.find("fhandle-bytes:");
      lines.push_back(start == std::string::npos ? line : line.substr(start, end - start));
    }
    std::sort(lines.begin(), lines.end());
    std::string all;
    for (const std::string& line : lines) all += line + "\n";
    return all;
  }
  void drain() {
    while (!read_events(fd).empty()) {
    }
  }
  // Others may do the same in the same folder: only what this process has done counts.
  template <typename Match>
  void expect(const char* what, uint64_t mask, Match match) {
    const int64_t until = target::now_ns() + 10'000'000'000;
    for (size_t i = 0;; ++i) {
      while (i == seen.size()) {
        pollfd one{fd, POLLIN, 0};
        if (poll(&one, 1, 1000) < 0 || target::now_ns() > until)
          target::fail("no event %#llx of %s", (unsigned long long)mask, what);
        for (const Event& event : read_events(fd)) seen.push_back(event);
      }
      if ((seen[i].mask & mask) != 0 && seen[i].pid == getpid() && match(seen[i])) return;
    }
  }
  void expect_name(uint64_t mask, const std::string& name) {
    expect(name.c_str(), mask, [&](const Event& event) { return event.name == name; });
  }
};

void check_unread(Group& group) {
  const std::vector<Event> events = read_events(group.fd);
  EXPECT(!events.empty());
  const bool told = events[0].name == "unread";
  const bool lost = events[0].mask == FAN_Q_OVERFLOW;
  if (!told && !lost) target::fail("first comes %#llx", (unsigned long long)events[0].mask);
}

// Of a whole mount and file system; the first one might be asked for permission.
void check_wide() {
  const std::string folder = target::path("watched");
  MUST(mkdir(folder.c_str(), 0700));
  Group by_descriptor(FAN_CLASS_CONTENT | FAN_NONBLOCK, O_RDONLY | O_LARGEFILE | O_CLOEXEC);
  by_descriptor.mark(folder, FAN_CLOSE_WRITE, FAN_MARK_MOUNT);
  by_descriptor.mark(folder, FAN_MODIFY, FAN_MARK_IGNORED_MASK);
  Group by_handle(FAN_REPORT_FID | FAN_REPORT_PIDFD | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS |
                      FAN_NONBLOCK | FAN_CLOEXEC,
                  O_RDONLY);
  by_handle.mark(folder, FAN_CREATE | FAN_ONDIR, FAN_MARK_FILESYSTEM);
  const std::string of_first = by_descriptor.told(), of_second = by_handle.told();

  target::ready();
  target::wait_for_go();

  EXPECT_TEXT(by_descriptor.told(), of_first);
  EXPECT_TEXT(by_handle.told(), of_second);
  EXPECT_EQ(fcntl(by_descriptor.fd, F_GETFD), 0);
  by_descriptor.drain();
  by_handle.drain();
  const std::string file = folder + "/" + fresh_name();
  create(file);
  by_descriptor.expect_name(FAN_CLOSE_WRITE, file);
  const int directory = MUST(open(folder.c_str(), O_RDONLY | O_DIRECTORY));
  const std::string handle = handle_of(directory);
  by_handle.expect("a file system", FAN_CREATE,
                   [&](const Event& event) { return event.handle == handle; });
  MUST(fanotify_mark(by_handle.fd, FAN_MARK_REMOVE | FAN_MARK_FILESYSTEM, FAN_CREATE | FAN_ONDIR,
                     AT_FDCWD, folder.c_str()));
  target::finish();
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string mode = argc > 2 ? argv[2] : "";
  if (mode == "wide") check_wide();
  const std::string folder = target::path("watched"), other = target::path("other"),
                    single = target::path("single"), deleted = target::path("deleted"),
                    link = target::path("link");
  MUST(mkdir(folder.c_str(), 0700));
  MUST(mkdir(other.c_str(), 0700));
  MUST(symlink("nowhere", link.c_str()));
  create(single);
  create(deleted);
  const int deleted_file = MUST(open(deleted.c_str(), O_RDWR));
  const int kept = MUST(open(other.c_str(), O_RDONLY | O_DIRECTORY));  // an inode may be evicted

  Group names(FAN_REPORT_DFID_NAME | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY | O_LARGEFILE);
  names.mark(folder, FAN_CREATE | FAN_DELETE | FAN_ONDIR | FAN_EVENT_ON_CHILD);
  names.mark(single, FAN_OPEN | FAN_CLOSE_WRITE);
  names.mark(single, FAN_OPEN, FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY);
  names.mark(link, FAN_ATTRIB, FAN_MARK_DONT_FOLLOW);
  Group files(FAN_REPORT_FID, O_RDWR);
  MUST(fcntl(files.fd, F_SETFL, O_NONBLOCK));
  files.mark(deleted, FAN_MODIFY);
  files.mark(other, FAN_CREATE, FAN_MARK_EVICTABLE);
  files.mark(folder, FAN_OPEN | FAN_ONDIR, FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY);
  MUST(unlink(deleted.c_str()));
  names.drain();
  files.drain();
  Group empty(FAN_REPORT_FID | FAN_REPORT_DIR_FID, O_RDONLY);
  const std::string of_names = names.told(), of_files = files.told(), of_empty = empty.told();
  const int epoll = MUST(epoll_create1(0));
  epoll_event event{};
  event.events = EPOLLIN;
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, names.fd, &event));
  if (mode == "unread") create(folder + "/unread");

  target::ready();
  target::wait_for_go();

  EXPECT_TEXT(names.told(), of_names);
  EXPECT_TEXT(files.told(), of_files);
  EXPECT_TEXT(empty.told(), of_empty);
  EXPECT_EQ(fcntl(names.fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  EXPECT_EQ(fcntl(files.fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  EXPECT_EQ(fcntl(empty.fd, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(fcntl(names.fd, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(files.fd, F_GETFD), 0);
  if (mode == "unread") check_unread(names);
  const std::string name = fresh_name();
  create(folder + "/" + name);
  EXPECT_EQ(MUST(epoll_wait(epoll, &event, 1, 10'000)), 1);
  names.expect_name(FAN_CREATE, name);
  MUST(unlink((folder + "/" + name).c_str()));
  names.expect_name(FAN_DELETE, name);
  create(single);
  names.expect_name(FAN_CLOSE_WRITE, "single");
  MUST(fchownat(AT_FDCWD, link.c_str(), getuid(), getgid(), AT_SYMLINK_NOFOLLOW));
  names.expect_name(FAN_ATTRIB, "link");
  for (const Event& one : names.seen) EXPECT((one.mask & FAN_OPEN) == 0);
  const auto of = [](int file) {
    return [handle = handle_of(file)](const Event& one) { return one.handle == handle; };
  };
  EXPECT_EQ(write(deleted_file, "y", 1), 1);
  files.expect("a deleted file", FAN_MODIFY, of(deleted_file));
  create(other + "/" + name);
  files.expect("a directory", FAN_CREATE, of(kept));

  names.mark(other, FAN_CREATE);
  create(other + "/" + name + "-2");
  names.expect_name(FAN_CREATE, name + "-2");
  MUST(fanotify_mark(names.fd, FAN_MARK_REMOVE, FAN_OPEN | FAN_CLOSE_WRITE, AT_FDCWD,
                     single.c_str()));
  EXPECT_EQ(fanotify_mark(names.fd, FAN_MARK_REMOVE, FAN_OPEN, AT_FDCWD, "/proc"), -1);
  empty.mark(folder, FAN_CREATE);
  create(folder + "/" + name);
  MUST(fcntl(empty.fd, F_SETFL, O_NONBLOCK));
  const int directory = MUST(open(folder.c_str(), O_RDONLY | O_DIRECTORY));
  empty.expect("a new mark", FAN_CREATE, of(directory));
  target::finish();
}
