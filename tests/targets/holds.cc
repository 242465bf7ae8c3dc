// Holds what can't be taken along (yet), named by the arguments: each opens one kind of descriptor
// or object, and its number is written to FOLDER/KIND. `lost` as the first argument: after go, all
// these descriptors must be closed; otherwise they must still be open.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <pty.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vector>

#include "target.h"

namespace {

// Lives on, without being a child of this process, until FOLDER/go or for a minute.
void start_other_process() {
  const pid_t child = MUST(fork());
  if (child != 0) {
    MUST(waitpid(child, nullptr, 0));
    return;
  }
  if (fork() == 0) {
    for (int i = 0; i < 60'000 && !target::go(); ++i) usleep(1000);
  }
  _exit(0);
}

int shared_with_another(int fd) {
  start_other_process();
  return fd;
}

// A fanotify group without which nobody opens that directory. An ordinary user's can be asked
// nothing.
int asked_for_permission() {
  const int group = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY);
  if (group < 0) return fanotify_init(FAN_REPORT_FID, O_RDONLY);
  const std::string folder = target::path("asked");
  MUST(mkdir(folder.c_str(), 0700));
  MUST(fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, folder.c_str()));
  return group;
}

// -1 with errno: this kernel, or this user, can't have one.
int open_object(const std::string& kind) {
  if (kind == "fanotify") return asked_for_permission();
  if (kind == "userfaultfd") return int(syscall(SYS_userfaultfd, 1));  // UFFD_USER_MODE_ONLY
  if (kind == "io_uring") {
    char parameters[120]{};
    return int(syscall(SYS_io_uring_setup, 4, parameters));
  }
  if (kind == "perf") {
    perf_event_attr event{};
    event.type = PERF_TYPE_SOFTWARE;
    event.size = sizeof event;
    event.config = PERF_COUNT_SW_TASK_CLOCK;
    event.exclude_kernel = 1;
    return int(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
  }
  if (kind == "secret") {
    const int fd = int(syscall(SYS_memfd_secret, 0));
    if (fd >= 0) MUST(ftruncate(fd, 4096));
    return fd;
  }
  if (kind == "queue") {
    const int fd = int(syscall(SYS_mq_open, "rfork-holds", O_RDWR | O_CREAT, 0600, nullptr));
    if (fd >= 0) syscall(SYS_mq_unlink, "rfork-holds");
    return fd;
  }
  if (kind == "other-pidfd") return int(syscall(SYS_pidfd_open, getppid(), 0));
  if (kind == "other-proc") {
    return open(("/proc/" + std::to_string(getppid()) + "/stat").c_str(), O_RDONLY);
  }
  if (kind == "shared-eventfd") return shared_with_another(eventfd(0, 0));
  if (kind == "shared-fanotify")
    return shared_with_another(MUST(fanotify_init(FAN_REPORT_FID, O_RDONLY)));
  if (kind == "shared-epoll") return shared_with_another(epoll_create1(0));
  if (kind == "shared-fifo") {
    const std::string file = target::path("shared-fifo-file");
    MUST(mkfifo(file.c_str(), 0600));
    return shared_with_another(MUST(open(file.c_str(), O_RDWR)));
  }
  target::fail("no such kind: %s", kind.c_str());
}

// It stays open in there (SCM_RIGHTS), and its number is free.
void send_descriptor(int socket, int fd) {
  char byte = 'x';
  iovec vector{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(rights), &fd, sizeof(int));
  EXPECT_EQ(sendmsg(socket, &message, 0), 1);
  close(fd);
}

/// Hands a descriptor to a process that is nobody's child of ours, and ends with this one.
void give_away(int theirs) {
  const pid_t child = MUST(fork());
  if (child == 0) {
    if (fork() == 0) {
      for (int fd = 0; fd < 1024; ++fd) {
        if (fd != theirs) close(fd);
      }
      char byte;
      while (read(theirs, &byte, 1) > 0) {
      }
    }
    _exit(0);
  }
  MUST(waitpid(child, nullptr, 0));
  close(theirs);
}

int listen_by_tcp(sockaddr_in& name) {
  const int listening = MUST(socket(AF_INET, SOCK_STREAM, 0));
  name = {};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  MUST(bind(listening, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  MUST(listen(listening, 1));
  socklen_t size = sizeof name;
  MUST(getsockname(listening, reinterpret_cast<sockaddr*>(&name), &size));
  return listening;
}

int connect_by_tcp(const sockaddr_in& name) {
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  return fd;
}

int connected_by_tcp() {
  sockaddr_in name;
  const int listening = listen_by_tcp(name);
  const int fd = connect_by_tcp(name);
  give_away(MUST(accept(listening, nullptr, nullptr)));
  close(listening);
  return fd;
}

/// Of a connection of the process with itself, what nobody can look at.
int connected_to_itself(const std::string& kind) {
  sockaddr_in name;
  const int listening = listen_by_tcp(name);
  const int fd = connect_by_tcp(name);
  if (kind == "tcp-not-accepted") {
    EXPECT_EQ(send(fd, "request", 7, 0), 7);
    return fd;
  }
  const int accepted = MUST(accept(listening, nullptr, nullptr));
  close(listening);
  EXPECT_EQ(send(fd, "a!b", 3, 0), 3);
  EXPECT_EQ(send(fd, "!", 1, MSG_OOB), 1);
  EXPECT_EQ(send(fd, "later", 5, 0), 5);
  if (kind == "tcp-mark") {
    // The urgent byte is read, and its place in the stream isn't passed.
    char byte;
    while (recv(accepted, &byte, 1, MSG_OOB) != 1) usleep(1000);
  }
  return accepted;
}

int open_kind(const std::string& kind) {
  int pair[2];
  if (kind == "pipe") {
    MUST(pipe2(pair, O_CLOEXEC));
    give_away(pair[0]);
    return pair[1];
  }
  if (kind == "socketpair") {
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    give_away(pair[1]);
    return pair[0];
  }
  if (kind == "unix-urgent" || kind == "unix-urgent-inline") {
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    const int in_line = kind.ends_with("-inline");
    MUST(setsockopt(pair[1], SOL_SOCKET, SO_OOBINLINE, &in_line, sizeof in_line));
    EXPECT_EQ(send(pair[0], "a!b", 3, 0), 3);
    if (send(pair[0], "!", 1, MSG_OOB) != 1)
      target::skip("no urgent data here: %s", std::strerror(errno));
    EXPECT_EQ(send(pair[0], "later", 5, 0), 5);
    return pair[1];
  }
  if (kind == "datagrams") {
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    give_away(pair[1]);
    return pair[0];
  }
  if (kind == "tcp") return connected_by_tcp();
  if (kind.starts_with("tcp-")) return connected_to_itself(kind);
  if (kind == "eventfd") return MUST(eventfd(0, 0));
  if (kind == "epoll") return MUST(epoll_create1(0));
  if (kind == "stale-epoll") {
    // It watches a file whose number is another's by now, and which has no other one.
    const int epoll = MUST(epoll_create1(0)), watched = MUST(eventfd(0, 0));
    epoll_event event{};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, watched, &event));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    send_descriptor(pair[0], watched);
    EXPECT_EQ(MUST(eventfd(0, 0)), watched);  // the same number
    return epoll;
  }
  if (kind == "in-flight") {
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    const int passed = MUST(epoll_create1(0));
    send_descriptor(pair[0], passed);
    return pair[1];
  }
  if (kind == "timerfd") return MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  if (kind == "inotify") return MUST(inotify_init1(0));
  if (kind == "pidfd") return int(MUST(syscall(SYS_pidfd_open, getpid(), 0)));
  if (kind == "signalfd") {
    sigset_t set;
    sigemptyset(&set);
    return MUST(signalfd(-1, &set, 0));
  }
  if (kind == "terminal") {
    int master, slave;
    MUST(openpty(&master, &slave, nullptr, nullptr, nullptr));
    give_away(slave);
    return master;
  }
  if (kind == "terminal-unread") {
    int master, slave;
    MUST(openpty(&master, &slave, nullptr, nullptr, nullptr));
    EXPECT_EQ(write(slave, "shown", 5), 5);
    return master;
  }
  if (kind == "fifo") {
    const std::string file = target::path("a-fifo");
    MUST(mkfifo(file.c_str(), 0600));
    return MUST(open(file.c_str(), O_RDWR));
  }
  const int object = open_object(kind);
  if (object < 0) target::skip("%s: %s", kind.c_str(), std::strerror(errno));
  return object;
}

// Objects without a descriptor.
bool make_object(const std::string& kind) {
  if (kind == "posix-timer") {
    // On the CPU time of another process: clock_getcpuclockid(3).
    clockid_t clock;
    EXPECT_EQ(clock_getcpuclockid(getppid(), &clock), 0);
    timer_t timer;
    sigevent event = {};
    event.sigev_notify = SIGEV_NONE;
    MUST(timer_create(clock, &event, &timer));
    return true;
  }
  if (kind == "sysv-shm") {
    const int id = MUST(shmget(IPC_PRIVATE, 8192, 0600));
    void* at = shmat(id, nullptr, 0);
    MUST(shmctl(id, IPC_RMID, nullptr));
    EXPECT(at != reinterpret_cast<void*>(-1));
    start_other_process();  // which has it, too
    return true;
  }
  if (kind == "semaphores") {
    const int id = MUST(semget(IPC_PRIVATE, 3, 0600));
    sembuf up{2, 1, SEM_UNDO};
    MUST(semop(id, &up, 1));
    return true;
  }
  if (kind == "message-queue") {
    const int id = MUST(msgget(IPC_PRIVATE, 0600));
    const long message[2] = {1, 7};
    MUST(msgsnd(id, message, sizeof(long), 0));
    return true;
  }
  if (kind == "aio") {
    aio_context_t context = 0;
    MUST(syscall(SYS_io_setup, 8, &context));
    return true;
  }
  if (kind == "secret-memory") {
    const int fd = open_object("secret");
    if (fd < 0) target::skip("memfd_secret: %s", std::strerror(errno));
    target::map(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    close(fd);
    return true;
  }
  if (kind == "child") {
    const pid_t own = getpid();
    if (MUST(fork()) == 0) {
      MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
      while (getppid() == own) pause();
      _exit(0);
    }
    return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv, 1);
  const bool lost = std::string(target::argument(0)) == "lost";
  std::vector<int> held;
  for (int i = lost ? 1 : 0; i < argc - 2; ++i) {
    const std::string kind = target::argument(i);
    if (make_object(kind)) continue;
    const int fd = open_kind(kind);
    held.push_back(fd);
    const int note = MUST(
        open(target::path(kind.c_str()).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const std::string number = std::to_string(fd);
    EXPECT_EQ(write(note, number.data(), number.size()), number.size());
    close(note);
  }

  target::ready();
  target::wait_for_go();

  for (const int fd : held) {
    if ((fcntl(fd, F_GETFD) < 0) != lost)
      target::fail("descriptor %d is %s", fd, lost ? "open" : "closed");
  }
  target::finish();
}
