#include "base/tcp_repair.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/socket_option.h"

namespace rfork {

namespace {

int set(int fd, int level, int option, int value) {
  return ::setsockopt(fd, level, option, &value, sizeof value) == 0 ? 0 : errno;
}

}  // namespace

int tcp_own_reuse(int fd) {
  return socket_option<int>(fd, SOL_SOCKET, SO_REUSEADDR).value_or(0) != 0 ? 1 : 0;
}

int tcp_begin_repair(int fd) {
  return set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
}

int tcp_end_repair(int fd, int reuse, bool probe) {
  const int error = set(fd, IPPROTO_TCP, TCP_REPAIR, probe ? TCP_REPAIR_OFF : TCP_REPAIR_OFF_NO_WP);
  if (error == 0) (void)set(fd, SOL_SOCKET, SO_REUSEADDR, reuse);
  return error;
}

int tcp_choose_queue(int fd, TcpQueue queue) {
  return set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, static_cast<int>(queue));
}

TcpRepair::TcpRepair(int fd) : fd_(fd), reuse_(tcp_own_reuse(fd)), error_(tcp_begin_repair(fd)) {}

TcpRepair::~TcpRepair() {
  if (error_ == 0) (void)tcp_end_repair(fd_, reuse_, false);
}

}  // namespace rfork
