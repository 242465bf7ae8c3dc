#include "tools/descriptor_words.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include "image/fanotify.h"
#include "tools/words.h"

namespace rfork::tools {

namespace {

constexpr Word kEpoll[] = {
    {EPOLLIN, "EPOLLIN"},         {EPOLLPRI, "EPOLLPRI"},
    {EPOLLOUT, "EPOLLOUT"},       {EPOLLERR, "EPOLLERR"},
    {EPOLLHUP, "EPOLLHUP"},       {EPOLLRDNORM, "EPOLLRDNORM"},
    {EPOLLRDBAND, "EPOLLRDBAND"}, {EPOLLWRNORM, "EPOLLWRNORM"},
    {EPOLLWRBAND, "EPOLLWRBAND"}, {EPOLLMSG, "EPOLLMSG"},
    {EPOLLRDHUP, "EPOLLRDHUP"},   {EPOLLEXCLUSIVE, "EPOLLEXCLUSIVE"},
    {EPOLLWAKEUP, "EPOLLWAKEUP"}, {EPOLLONESHOT, "EPOLLONESHOT"},
    {EPOLLET, "EPOLLET"},
};

constexpr Word kInotify[] = {
    {IN_ACCESS, "IN_ACCESS"},
    {IN_MODIFY, "IN_MODIFY"},
    {IN_ATTRIB, "IN_ATTRIB"},
    {IN_CLOSE_WRITE, "IN_CLOSE_WRITE"},
    {IN_CLOSE_NOWRITE, "IN_CLOSE_NOWRITE"},
    {IN_OPEN, "IN_OPEN"},
    {IN_MOVED_FROM, "IN_MOVED_FROM"},
    {IN_MOVED_TO, "IN_MOVED_TO"},
    {IN_CREATE, "IN_CREATE"},
    {IN_DELETE, "IN_DELETE"},
    {IN_DELETE_SELF, "IN_DELETE_SELF"},
    {IN_MOVE_SELF, "IN_MOVE_SELF"},
    {IN_ONLYDIR, "IN_ONLYDIR"},
    {IN_DONT_FOLLOW, "IN_DONT_FOLLOW"},
    {IN_EXCL_UNLINK, "IN_EXCL_UNLINK"},
    {IN_MASK_CREATE, "IN_MASK_CREATE"},
    {IN_MASK_ADD, "IN_MASK_ADD"},
    {IN_ISDIR, "IN_ISDIR"},
    {IN_ONESHOT, "IN_ONESHOT"},
};

// Without FAN_CLASS_NOTIF, which is 0.
constexpr Word kFanotify[] = {
    {FAN_CLOEXEC, "FAN_CLOEXEC"},
    {FAN_NONBLOCK, "FAN_NONBLOCK"},
    {FAN_CLASS_CONTENT, "FAN_CLASS_CONTENT"},
    {FAN_CLASS_PRE_CONTENT, "FAN_CLASS_PRE_CONTENT"},
    {FAN_UNLIMITED_QUEUE, "FAN_UNLIMITED_QUEUE"},
    {FAN_UNLIMITED_MARKS, "FAN_UNLIMITED_MARKS"},
    {FAN_ENABLE_AUDIT, "FAN_ENABLE_AUDIT"},
    {FAN_REPORT_PIDFD, "FAN_REPORT_PIDFD"},
    {FAN_REPORT_TID, "FAN_REPORT_TID"},
    {FAN_REPORT_FID, "FAN_REPORT_FID"},
    {FAN_REPORT_DIR_FID, "FAN_REPORT_DIR_FID"},
    {FAN_REPORT_NAME, "FAN_REPORT_NAME"},
    {FAN_REPORT_TARGET_FID, "FAN_REPORT_TARGET_FID"},
    {image::kFanReportFdError, "FAN_REPORT_FD_ERROR"},
    {image::kFanReportMount, "FAN_REPORT_MNT"},
};

constexpr Word kFanotifyMark[] = {
    {FAN_MARK_DONT_FOLLOW, "FAN_MARK_DONT_FOLLOW"},
    {FAN_MARK_MOUNT, "FAN_MARK_MOUNT"},
    {FAN_MARK_FILESYSTEM, "FAN_MARK_FILESYSTEM"},
    {FAN_MARK_IGNORED_SURV_MODIFY, "FAN_MARK_IGNORED_SURV_MODIFY"},
    {FAN_MARK_EVICTABLE, "FAN_MARK_EVICTABLE"},
    {FAN_MARK_IGNORE, "FAN_MARK_IGNORE"},
};

constexpr Word kFanotifyEvents[] = {
    {FAN_ACCESS, "FAN_ACCESS"},
    {FAN_MODIFY, "FAN_MODIFY"},
    {FAN_ATTRIB, "FAN_ATTRIB"},
    {FAN_CLOSE_WRITE, "FAN_CLOSE_WRITE"},
    {FAN_CLOSE_NOWRITE, "FAN_CLOSE_NOWRITE"},
    {FAN_OPEN, "FAN_OPEN"},
    {FAN_MOVED_FROM, "FAN_MOVED_FROM"},
    {FAN_MOVED_TO, "FAN_MOVED_TO"},
    {FAN_CREATE, "FAN_CREATE"},
    {FAN_DELETE, "FAN_DELETE"},
    {FAN_DELETE_SELF, "FAN_DELETE_SELF"},
    {FAN_MOVE_SELF, "FAN_MOVE_SELF"},
    {FAN_OPEN_EXEC, "FAN_OPEN_EXEC"},
    {FAN_FS_ERROR, "FAN_FS_ERROR"},
    {FAN_EVENT_ON_CHILD, "FAN_EVENT_ON_CHILD"},
    {FAN_RENAME, "FAN_RENAME"},
    {FAN_ONDIR, "FAN_ONDIR"},
};

constexpr Word kSeals[] = {
    {0x01, "F_SEAL_SEAL"},  {0x02, "F_SEAL_SHRINK"},       {0x04, "F_SEAL_GROW"},
    {0x08, "F_SEAL_WRITE"}, {0x10, "F_SEAL_FUTURE_WRITE"}, {0x20, "F_SEAL_EXEC"},
};

constexpr Word kFamilies[] = {
    {AF_UNIX, "AF_UNIX"},       {AF_INET, "AF_INET"},     {AF_INET6, "AF_INET6"},
    {AF_NETLINK, "AF_NETLINK"}, {AF_PACKET, "AF_PACKET"}, {AF_VSOCK, "AF_VSOCK"},
    {AF_ALG, "AF_ALG"},         {AF_CAN, "AF_CAN"},       {AF_BLUETOOTH, "AF_BLUETOOTH"},
};

constexpr Word kTypes[] = {
    {SOCK_STREAM, "SOCK_STREAM"},       {SOCK_DGRAM, "SOCK_DGRAM"}, {SOCK_RAW, "SOCK_RAW"},
    {SOCK_SEQPACKET, "SOCK_SEQPACKET"}, {SOCK_RDM, "SOCK_RDM"},
};

constexpr Word kFileTypes[] = {
    {S_IFREG, "S_IFREG"}, {S_IFDIR, "S_IFDIR"}, {S_IFIFO, "S_IFIFO"}, {S_IFSOCK, "S_IFSOCK"},
    {S_IFCHR, "S_IFCHR"}, {S_IFBLK, "S_IFBLK"}, {S_IFLNK, "S_IFLNK"},
};

}  // namespace

std::string epoll_event_words(uint64_t events) {
  return bit_words(events, kEpoll);
}

std::string inotify_mask_words(uint64_t mask) {
  return bit_words(mask, kInotify);
}

std::string fanotify_flag_words(uint64_t flags) {
  return bit_words(flags, kFanotify);
}

std::string fanotify_mark_flag_words(uint64_t flags) {
  return bit_words(flags, kFanotifyMark);
}

std::string fanotify_mask_words(uint64_t mask) {
  return bit_words(mask, kFanotifyEvents);
}

std::string seal_words(uint64_t seals) {
  return bit_words(seals, kSeals);
}

std::string timer_fd_flag_words(uint64_t flags) {
  constexpr Word kFlags[] = {{TFD_TIMER_ABSTIME, "TFD_TIMER_ABSTIME"},
                             {TFD_TIMER_CANCEL_ON_SET, "TFD_TIMER_CANCEL_ON_SET"}};
  return bit_words(flags, kFlags);
}

std::string file_mode_words(uint64_t mode) {
  const std::string permissions = fmt::format("{:04o}", mode & 07777);
  const uint64_t type = mode & S_IFMT;
  return type == 0 ? permissions : value_word(type, kFileTypes) + "|" + permissions;
}

std::string shutdown_words(uint64_t shut) {
  constexpr Word kBits[] = {{3, "SHUT_RDWR"}, {1, "SHUT_RD"}, {2, "SHUT_WR"}};
  return bit_words(shut, kBits);
}

std::string line_discipline_word(uint64_t discipline) {
  // <linux/tty.h>
  constexpr Word kDisciplines[] = {{0, "N_TTY"},       {1, "N_SLIP"}, {2, "N_MOUSE"},
                                   {3, "N_PPP"},       {5, "N_AX25"}, {13, "N_HDLC"},
                                   {14, "N_SYNC_PPP"}, {15, "N_HCI"}, {21, "N_GSM0710"},
                                   {25, "N_SLCAN"},    {27, "N_NULL"}};
  return value_word(discipline, kDisciplines);
}

std::string owner_type_word(uint64_t type) {
  constexpr Word kOwners[] = {
      {F_OWNER_TID, "F_OWNER_TID"}, {F_OWNER_PID, "F_OWNER_PID"}, {F_OWNER_PGRP, "F_OWNER_PGRP"}};
  return value_word(type, kOwners);
}

std::string socket_family_word(uint64_t family) {
  return value_word(family, kFamilies);
}

std::string socket_type_word(uint64_t type) {
  return value_word(type, kTypes);
}

}  // namespace rfork::tools
