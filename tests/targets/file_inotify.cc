// Instances of inotify: watches of directories and files, of a deleted one too, keep their numbers
// with the gaps between them, and report. `unread`: with an event in the queue, in whose place a
// copy may find IN_Q_OVERFLOW.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <vector>

#include "made_files.h"
#include "target.h"

namespace {

struct Event {
  int wd;
  uint32_t mask;
  std::string name;
};

std::vector<Event> read_events(int fd) {
  alignas(inotify_event) char bytes[16384];
  std::vector<Event> events;
  const ssize_t size = read(fd, bytes, sizeof bytes);
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const inotify_event*>(bytes + at);
    events.push_back({event->wd, event->mask, event->len > 0 ? event->name : ""});
    at += static_cast<ssize_t>(sizeof *event + event->len);
  }
  return events;
}

struct Instance {
  int fd = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  std::vector<int> wds;
  std::vector<Event> seen;
  bool overflown = false;  // the other process was faster than this one's restore

  int watch(const std::string& file, uint32_t mask) {
    wds.push_back(MUST(inotify_add_watch(fd, file.c_str(), mask)));
    return wds.back();
  }
  // Another process may do the same in the same folder, but nothing else is told.
  void expect(int wd, uint32_t mask, const std::string& name) {
    for (size_t i = 0;; ++i) {
      if (i == seen.size()) wait_for_more(wd, mask, name);
      if ((seen[i].mask & mask) != 0 && seen[i].wd == wd && seen[i].name == name) return;
    }
  }
  void wait_for_more(int wd, uint32_t mask, const std::string& name) {
    pollfd one{fd, POLLIN, 0};
    if (poll(&one, 1, 10'000) != 1) target::fail("no event %#x of %d %s", mask, wd, name.c_str());
    for (const Event& event : read_events(fd)) {
      const bool overflow = event.wd == -1 && event.mask == IN_Q_OVERFLOW;
      bool known = overflow;
      for (const int own : wds) known = known || own == event.wd;
      if (!known) target::fail("an event %#x of an unknown watch %d", event.mask, event.wd);
      overflown = overflown || overflow;
      seen.push_back(event);
    }
  }
};

void check_unread(Instance& instance, int wd) {
  instance.overflown = true;  // or will be
  const std::vector<Event> events = read_events(instance.fd);
  EXPECT(!events.empty());
  const bool told = events[0].wd == wd && events[0].name == "unread";
  const bool lost = events[0].wd == -1 && events[0].mask == IN_Q_OVERFLOW;
  if (!told && !lost) target::fail("first comes %#x of %d", events[0].mask, events[0].wd);
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const bool unread = argc > 2;
  const std::string folder = target::path("watched"), other = target::path("once"),
                    single = target::path("single"), deleted = target::path("deleted"),
                    link = target::path("link");
  MUST(mkdir(folder.c_str(), 0700));
  MUST(mkdir(other.c_str(), 0700));
  MUST(symlink("nowhere", link.c_str()));
  create(single);
  create(deleted);
  const int deleted_file = MUST(open(deleted.c_str(), O_RDWR));

  Instance instance;
  const int directory = instance.watch(folder, IN_CREATE | IN_DELETE | IN_EXCL_UNLINK | IN_ONLYDIR);
  const auto gap = [&](int size) {
    for (int i = 0; i < size; ++i) {
      MUST(inotify_rm_watch(instance.fd, MUST(inotify_add_watch(instance.fd, "/", IN_CREATE))));
    }
  };
  gap(1);
  const int file = instance.watch(single, IN_MODIFY | IN_CLOSE_WRITE);
  gap(300);
  const int once = instance.watch(other, IN_CREATE | IN_ONESHOT);
  const int of_link = instance.watch(link, IN_ATTRIB | IN_DONT_FOLLOW);
  const int nameless = instance.watch(deleted, IN_MODIFY);
  MUST(unlink(deleted.c_str()));
  EXPECT_EQ(directory, 1);
  EXPECT_EQ(file, 3);
  EXPECT_EQ(once, 304);
  while (!read_events(instance.fd).empty()) {
  }
  Instance empty;
  const int epoll = MUST(epoll_create1(0));
  epoll_event event{};
  event.events = EPOLLIN;
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, instance.fd, &event));
  if (unread) create(folder + "/unread");

  target::ready();
  target::wait_for_go();

  EXPECT_EQ(fcntl(instance.fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  EXPECT_EQ(fcntl(instance.fd, F_GETFD), FD_CLOEXEC);
  if (unread) check_unread(instance, directory);
  const std::string name = fresh_name();
  create(folder + "/" + name);
  EXPECT_EQ(MUST(epoll_wait(epoll, &event, 1, 10'000)), 1);
  instance.expect(directory, IN_CREATE, name);
  MUST(unlink((folder + "/" + name).c_str()));
  instance.expect(directory, IN_DELETE, name);
  create(single);
  instance.expect(file, IN_CLOSE_WRITE, "");
  create(other + "/" + name);
  if (!instance.overflown) instance.expect(once, IN_IGNORED, "");
  MUST(fchownat(AT_FDCWD, link.c_str(), getuid(), getgid(), AT_SYMLINK_NOFOLLOW));
  instance.expect(of_link, IN_ATTRIB, "");
  EXPECT_EQ(write(deleted_file, "y", 1), 1);
  instance.expect(nameless, IN_MODIFY, "");

  EXPECT(MUST(inotify_add_watch(instance.fd, "/", IN_DELETE_SELF)) > nameless);
  EXPECT_EQ(MUST(inotify_add_watch(instance.fd, single.c_str(), IN_ATTRIB)), file);
  MUST(inotify_rm_watch(instance.fd, directory));
  instance.expect(directory, IN_IGNORED, "");
  EXPECT_EQ(inotify_rm_watch(instance.fd, once), -1);
  const int first = empty.watch(folder, IN_CREATE);
  create(folder + "/" + name);
  empty.expect(first, IN_CREATE, name);
  target::finish();
}
