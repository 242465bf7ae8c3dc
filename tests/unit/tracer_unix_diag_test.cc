// What sock_diag(7) tells of many unix sockets at once, beside what it tells of each.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <set>
#include <vector>

#include "base/unique_fd.h"
#include "tracer/unix_diag.h"

using namespace rfork;
using tracer::UnixDiag;
using tracer::UnixSocket;

namespace {

ino_t inode_of(const UniqueFd& fd) {
  struct stat status {};
  REQUIRE(::fstat(fd.get(), &status) == 0);
  return status.st_ino;
}

UniqueFd unix_socket(int type) { return UniqueFd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0)); }

}  // namespace

TEST_CASE("one answer tells of many unix sockets what an answer each does") {
  std::vector<UniqueFd> sockets;
  // More than one part of the answer holds.
  for (int i = 0; i < 400; ++i) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, i % 2 == 0 ? SOCK_STREAM : SOCK_SEQPACKET, 0, ends) == 0);
    sockets.emplace_back(ends[0]);
    sockets.emplace_back(ends[1]);
  }
  ::shutdown(sockets[3].get(), SHUT_WR);
  // One that listens at a name of the kernel's choice, with one that waits.
  UniqueFd listening = unix_socket(SOCK_STREAM), waiting = unix_socket(SOCK_STREAM);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  REQUIRE(::bind(listening.get(), reinterpret_cast<sockaddr*>(&name), sizeof(sa_family_t)) == 0);
  REQUIRE(::listen(listening.get(), 3) == 0);
  socklen_t size = sizeof name;
  REQUIRE(::getsockname(listening.get(), reinterpret_cast<sockaddr*>(&name), &size) == 0);
  REQUIRE(::connect(waiting.get(), reinterpret_cast<sockaddr*>(&name), size) == 0);
  const ino_t listens = inode_of(listening), waits = inode_of(waiting);
  sockets.push_back(std::move(listening));
  sockets.push_back(std::move(waiting));
  const UniqueFd internet(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

  std::set<ino_t> wanted{inode_of(internet)};
  for (const UniqueFd& socket : sockets) wanted.insert(inode_of(socket));
  const UnixDiag diag(::getpid());
  const auto found = diag.find(wanted);
  CHECK(found.size() == sockets.size());
  for (const UniqueFd& socket : sockets) {
    const ino_t inode = inode_of(socket);
    const auto one = diag.ask(inode);
    REQUIRE(one);
    REQUIRE(found.contains(inode));
    const UnixSocket& same = found.at(inode);
    CHECK(same.type == one->type);
    CHECK(same.state == one->state);
    CHECK(same.peer == one->peer);
    CHECK(same.peer_told == one->peer_told);
    CHECK(same.shut == one->shut);
    CHECK(same.waiting == one->waiting);
    CHECK(same.queued == one->queued);
    CHECK(same.limit == one->limit);
  }
  CHECK(found.at(inode_of(sockets[0])).peer == inode_of(sockets[1]));
  CHECK(found.at(inode_of(sockets[3])).shut != 0);
  CHECK(found.at(listens).waiting == std::vector<ino_t>{waits});
  CHECK(found.at(listens).limit == 3);
}
