// Unix sockets with names: paths, abstract ones, one that the kernel chose, paths that were removed
// or replaced; listening, connected through them, with messages whose senders have names.
#include <sys/stat.h>

#include "sockets.h"

namespace {

using sockets::bind_unix;
using sockets::connect_unix;
using sockets::receive;
using sockets::say;
using sockets::unix_name;

int make(int type) {
  return MUST(socket(AF_UNIX, type, 0));
}

const pid_t first_pid = getpid();  // it may be another one afterwards

std::string abstract(const char* name) {
  return std::string(1, '\0') + "rfork-target-" + std::to_string(first_pid) + "-" + name;
}

struct Listening {
  std::string path = target::path("listening"), name = abstract("listening");
  int by_path = make(SOCK_STREAM), by_name = make(SOCK_SEQPACKET);
  int client = make(SOCK_STREAM), named_client = make(SOCK_SEQPACKET);
  int server, named_server;

  Listening() {
    bind_unix(by_path, path);
    MUST(chmod(path.c_str(), 0640));
    MUST(listen(by_path, 7));
    bind_unix(by_name, name);
    MUST(listen(by_name, 3));
    MUST(connect_unix(client, path));
    server = MUST(accept(by_path, nullptr, nullptr));
    MUST(connect_unix(named_client, name));
    named_server = MUST(accept(by_name, nullptr, nullptr));
    say(client, "request");
    say(server, "answer");
    say(named_client, "one");
    say(named_client, "two");
  }
  void check_listening(int fd, const std::string& where, int type) {
    EXPECT_EQ(sockets::get(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
    const int fresh = make(type);
    MUST(connect_unix(fresh, where));
    const int accepted = MUST(accept(fd, nullptr, nullptr));
    say(fresh, "hello");
    EXPECT_TEXT(receive(accepted), "hello");
    close(fresh);
    close(accepted);
  }
  /// As many as may wait: one more than the backlog.
  void check_backlog(int fd, const std::string& where, int backlog) {
    EXPECT_EQ(sockets::get(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
    int waiting[16];
    int count = 0;
    while (count < 16) {
      waiting[count] = make(SOCK_STREAM | SOCK_NONBLOCK);
      if (connect_unix(waiting[count++], where) != 0) break;
    }
    EXPECT_EQ(count - 1, backlog + 1);
    for (int i = 0; i < count; ++i) close(waiting[i]);
  }
  void check() {
    EXPECT_TEXT(receive(server), "request");
    EXPECT_TEXT(receive(client), "answer");
    EXPECT_TEXT(unix_name(server), path);
    EXPECT_TEXT(unix_name(client, getpeername), path);
    EXPECT_TEXT(receive(named_server), "one");
    EXPECT_TEXT(receive(named_server), "two");
    EXPECT_TEXT(unix_name(named_client, getpeername), name);
    EXPECT_TEXT(unix_name(named_server), name);
    check_listening(by_path, path, SOCK_STREAM);
    check_listening(by_name, name, SOCK_SEQPACKET);
    check_backlog(by_path, path, 7);
    struct stat status {};
    MUST(stat(path.c_str(), &status));
    EXPECT_EQ(status.st_mode & 0777, 0640);
  }
};

struct Datagrams {
  std::string path = target::path("mailbox"), name = abstract("sender");
  int mailbox = make(SOCK_DGRAM), sender = make(SOCK_DGRAM), connected = make(SOCK_DGRAM);
  int automatic = make(SOCK_DGRAM);
  std::string given;

  Datagrams() {
    bind_unix(mailbox, path);
    bind_unix(sender, name);
    const sockaddr family{AF_UNIX, {}};
    MUST(bind(automatic, &family, sizeof(sa_family_t)));
    given = unix_name(automatic);
    EXPECT_EQ(given.size(), 6);
    for (const int fd : {sender, connected, automatic}) {
      const int again = fd == connected ? fd : MUST(dup(fd));
      MUST(connect_unix(again, path));
      say(again, fd == sender ? "by name" : fd == connected ? "by nobody" : "by number");
    }
  }
  void check() {
    std::string from;
    EXPECT_TEXT(receive(mailbox, &from), "by name");
    EXPECT_TEXT(from, name);
    EXPECT_TEXT(receive(mailbox, &from), "by nobody");
    EXPECT_TEXT(from, "");
    EXPECT_TEXT(receive(mailbox, &from), "by number");
    EXPECT_TEXT(from, given);
    EXPECT_TEXT(receive(mailbox), "-EAGAIN");
    EXPECT_TEXT(unix_name(automatic), given);
    EXPECT_TEXT(unix_name(connected, getpeername), path);
    say(connected, "again");
    EXPECT_TEXT(receive(mailbox), "again");
  }
};

/// Names that lead to nothing, or to something else, by now.
struct Removed {
  std::string path = target::path("removed"), replaced = target::path("replaced");
  int gone = make(SOCK_STREAM), old_one = make(SOCK_DGRAM), new_one = make(SOCK_DGRAM);
  int dead = make(SOCK_DGRAM), closed = make(SOCK_DGRAM);

  Removed() {
    bind_unix(gone, path);
    MUST(listen(gone, 1));
    MUST(unlink(path.c_str()));
    bind_unix(old_one, replaced);
    MUST(connect_unix(dead, replaced));
    say(dead, "to the old one");
    MUST(unlink(replaced.c_str()));
    bind_unix(new_one, replaced);
    // A sender that is no more.
    bind_unix(closed, abstract("closed"));
    MUST(connect_unix(closed, replaced));
    say(closed, "farewell");
    close(closed);
  }
  void check() {
    EXPECT_TEXT(unix_name(gone), path);
    EXPECT_EQ(access(path.c_str(), F_OK), -1);
    EXPECT_TEXT(unix_name(old_one), replaced);
    EXPECT_TEXT(unix_name(new_one), replaced);
    EXPECT_TEXT(receive(old_one), "to the old one");
    say(dead, "still");
    EXPECT_TEXT(receive(old_one), "still");
    std::string from;
    EXPECT_TEXT(receive(new_one, &from), "farewell");
    EXPECT_TEXT(from, abstract("closed"));
  }
};

/// An empty datagram among others, or behind them, is one too.
struct Empty {
  static constexpr const char* kTexts[] = {"", "first", "", "last", ""};
  int pair[2];
  explicit Empty(int type) {
    MUST(socketpair(AF_UNIX, type, 0, pair));
    for (const char* text : kTexts) say(pair[0], text);
  }
  void check() {
    for (const char* text : kTexts) EXPECT_TEXT(receive(pair[1]), text);
    EXPECT_TEXT(receive(pair[1]), "-EAGAIN");
  }
};

/// In a directory that another host hasn't.
std::string beneath(const char* name) {
  const std::string folder = target::path("beneath");
  MUST(mkdir(folder.c_str(), 0755));
  return folder + "/" + name;
}

/// Connected to itself, by a path or an abstract name.
struct Itself {
  int fd = make(SOCK_DGRAM);
  explicit Itself(const std::string& name) {
    bind_unix(fd, name);
    MUST(connect_unix(fd, name));
    say(fd, "before");
  }
  void check() {
    EXPECT_TEXT(receive(fd), "before");
    say(fd, "after");
    EXPECT_TEXT(receive(fd), "after");
    EXPECT_TEXT(receive(fd), "-EAGAIN");
  }
};

/// A path that fills the address, without a NUL behind it.
struct Longest {
  int fd = make(SOCK_STREAM);
  std::string path = target::path("");
  socklen_t size = 0;
  Longest() {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    path.append(sizeof name.sun_path - path.size(), 'l');
    std::memcpy(name.sun_path, path.data(), path.size());
    MUST(bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name));
    size = length();
  }
  socklen_t length() {
    sockaddr_storage name{};
    socklen_t told = sizeof name;
    MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &told));
    EXPECT_EQ(std::memcmp(reinterpret_cast<const sockaddr_un*>(&name)->sun_path, path.data(),
                          path.size()),
              0);
    return told;
  }
  void check() {
    EXPECT_EQ(length(), size);
    EXPECT_EQ(access(path.c_str(), F_OK), 0);
  }
};

/// What was shut down without a connection stays so.
struct Shut {
  int listening = make(SOCK_STREAM), alone = make(SOCK_STREAM);
  std::string name = abstract("shut");
  Shut() {
    bind_unix(listening, name);
    MUST(listen(listening, 3));
    MUST(shutdown(listening, SHUT_RD));
    MUST(shutdown(alone, SHUT_RDWR));
  }
  void check() {
    const int client = make(SOCK_STREAM);
    EXPECT_EQ(connect_unix(client, name), -1);
    EXPECT_EQ(errno, ECONNREFUSED);
    EXPECT_EQ(sockets::ready_for(alone) & (POLLHUP | POLLRDHUP), POLLHUP | POLLRDHUP);
    close(client);
  }
};

struct Alone {
  int unbound = make(SOCK_STREAM | SOCK_NONBLOCK), bound = make(SOCK_STREAM);
  int orphan = make(SOCK_DGRAM);
  std::string name = abstract("bound"), gone = abstract("gone");
  Alone() {
    bind_unix(bound, name);
    const int other = make(SOCK_DGRAM);
    bind_unix(other, gone);
    MUST(connect_unix(orphan, gone));
    close(other);
  }
  void check() {
    EXPECT_TEXT(unix_name(bound), name);
    MUST(listen(bound, 1));
    MUST(connect_unix(unbound, name));
    EXPECT_TEXT(unix_name(orphan, getpeername), gone);
    EXPECT_EQ(send(orphan, "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, ECONNREFUSED);
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Listening listening;
  Datagrams datagrams;
  Removed removed;
  Alone alone;
  Empty empty(SOCK_DGRAM), packets(SOCK_SEQPACKET);
  Itself itself(beneath("itself")), nameless(abstract("itself"));
  Longest longest;
  Shut shut;
  target::ready();
  target::wait_for_go();
  listening.check();
  datagrams.check();
  removed.check();
  alone.check();
  empty.check();
  packets.check();
  itself.check();
  nameless.check();
  longest.check();
  shut.check();
  target::finish();
}
