// A process that is connected by TCP to its own listening sockets: names and ports, connections
// that it hasn't accepted yet (TCP and unix), and a socket that listens on beside them.
#include <fcntl.h>

#include "tcp.h"

namespace {

using sockets::say;
using tcp::expect_works;
using tcp::loopback;
using tcp::Name;
using tcp::name_of;
using tcp::receive;

struct Served {
  int listening, client, second, server, second_server;
  Name at, client_name, second_name;

  explicit Served(const Name& where) {
    listening = tcp::listen_at(where);
    at = name_of(listening);
    client = tcp::make(where.address.ss_family);
    second = tcp::make(where.address.ss_family);
    MUST(connect(client, at.get(), at.size));
    server = MUST(accept(listening, nullptr, nullptr));
    MUST(connect(second, at.get(), at.size));
    second_server = MUST(accept(listening, nullptr, nullptr));
    client_name = name_of(client);
    second_name = name_of(second);
    say(client, "request");
    say(second_server, "greeting");
  }
  void check() {
    EXPECT(name_of(listening) == at);
    EXPECT(name_of(client) == client_name);
    EXPECT(name_of(second) == second_name);
    for (const int fd : {client, second}) EXPECT(name_of(fd, getpeername) == at);
    for (const int fd : {server, second_server}) EXPECT(name_of(fd) == at);
    EXPECT(name_of(server, getpeername) == client_name);
    EXPECT(name_of(second_server, getpeername) == second_name);
    for (const int fd : {listening, client, server}) {
      EXPECT_EQ(sockets::get(fd, SOL_SOCKET, SO_REUSEADDR), 0);
    }
    EXPECT_TEXT(receive(server, 7), "request");
    EXPECT_TEXT(receive(second, 8), "greeting");
    expect_works(client, server);
    expect_works(second, second_server);
    const int fresh = tcp::make(at.address.ss_family);
    MUST(connect(fresh, at.get(), at.size));
    const int accepted = MUST(accept(listening, nullptr, nullptr));
    expect_works(fresh, accepted);
    close(accepted);
    close(fresh);
  }
};

/// Connections that wait in the order in which they came.
struct Waiting {
  int listening = tcp::listen_at(loopback(AF_INET)), any = tcp::make(AF_INET);
  int first = tcp::make(AF_INET), ended = tcp::make(AF_INET);
  int at_any = tcp::make(AF_INET, SOCK_NONBLOCK);
  Name name = name_of(listening), first_name, ended_name;

  Waiting() {
    MUST(connect(first, name.get(), name.size));
    MUST(connect(ended, name.get(), name.size));
    MUST(shutdown(ended, SHUT_WR));
    first_name = name_of(first);
    ended_name = name_of(ended);
    Name everywhere;
    everywhere.address.ss_family = AF_INET;
    everywhere.size = sizeof(sockaddr_in);
    MUST(bind(any, everywhere.get(), everywhere.size));
    MUST(listen(any, 2));
    Name to = loopback(AF_INET);
    reinterpret_cast<sockaddr_in*>(&to.address)->sin_port = name_of(any).port();
    if (connect(at_any, to.get(), to.size) != 0) EXPECT_EQ(errno, EINPROGRESS);
    while ((sockets::ready_for(at_any) & POLLOUT) == 0) usleep(1000);
    // Until all of them are there to be accepted.
    for (const int fd : {listening, any}) {
      while ((sockets::ready_for(fd) & POLLIN) == 0) usleep(1000);
    }
  }
  void check() {
    for (int i = 0; i < 2; ++i) {
      const int accepted = MUST(accept(listening, nullptr, nullptr));
      const Name from = name_of(accepted, getpeername);
      EXPECT(from == first_name || from == ended_name);
      if (from == first_name) {
        expect_works(first, accepted);
      } else {
        tcp::expect_end(accepted);
        say(accepted, "after all");
        EXPECT_TEXT(receive(ended, 9), "after all");
      }
      close(accepted);
    }
    const int accepted = MUST(accept(any, nullptr, nullptr));
    expect_works(at_any, accepted);
    EXPECT_EQ(fcntl(at_any, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    MUST(fcntl(listening, F_SETFL, O_NONBLOCK));
    EXPECT_EQ(accept(listening, nullptr, nullptr), -1);
    EXPECT_EQ(errno, EAGAIN);
  }
};

struct WaitingUnix {
  std::string name;
  int streams = MUST(socket(AF_UNIX, SOCK_STREAM, 0)),
      packets = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  int first = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), second = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  int packet = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));

  explicit WaitingUnix(const std::string& folder) : name(std::string(1, '\0') + folder) {
    sockets::bind_unix(streams, name + "-s");
    sockets::bind_unix(packets, name + "-p");
    sockets::bind_unix(second, name + "-second");
    MUST(listen(streams, 3));
    MUST(listen(packets, 3));
    MUST(sockets::connect_unix(first, name + "-s"));
    MUST(sockets::connect_unix(second, name + "-s"));
    MUST(sockets::connect_unix(packet, name + "-p"));
  }
  void check() {
    EXPECT_TEXT(sockets::receive(first), "-EAGAIN");
    EXPECT_TEXT(sockets::unix_name(first, getpeername), name + "-s");
    const int one = MUST(accept(streams, nullptr, nullptr));
    const int other = MUST(accept(streams, nullptr, nullptr));
    EXPECT_TEXT(sockets::unix_name(other, getpeername), name + "-second");
    say(one, "to the first");
    EXPECT_TEXT(sockets::receive(first), "to the first");
    say(second, "from the second");
    EXPECT_TEXT(sockets::receive(other), "from the second");
    const int last = MUST(accept(packets, nullptr, nullptr));
    say(packet, "packet");
    EXPECT_TEXT(sockets::receive(last), "packet");
    MUST(fcntl(streams, F_SETFL, O_NONBLOCK));
    EXPECT_EQ(accept(streams, nullptr, nullptr), -1);
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Served served(loopback(AF_INET));
  Waiting waiting;
  WaitingUnix waiting_unix(argv[1]);
  target::ready();
  target::wait_for_go();
  served.check();
  waiting.check();
  waiting_unix.check();
  target::finish();
}
