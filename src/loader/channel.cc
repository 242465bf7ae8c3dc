#include "loader/channel.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/io.h"

namespace rfork::loader {

using plan::Message;
using plan::MessageKind;

Channel::Channel(std::chrono::milliseconds timeout, Explain explain)
    : timeout_(timeout), explain_(std::move(explain)), ring_fd_(make_memfd("rfork-ring")) {
  if (::ftruncate(ring_fd_.get(), plan::kRingSize) < 0) throw_errno("ftruncate", "rfork-ring");
  void* memory =
      ::mmap(nullptr, plan::kRingSize, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd_.get(), 0);
  if (memory == MAP_FAILED) throw_errno("mmap", "rfork-ring");
  ring_ = static_cast<std::byte*>(memory);
  std::tie(ours_, theirs_) = make_seqpacket_pair();
  const int on = 1;
  if (::setsockopt(ours_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
    throw_errno("SO_PASSCRED");
}

Channel::~Channel() {
  ::munmap(ring_, plan::kRingSize);
}

Message Channel::receive(const char* what) {
  pollfd waiting{ours_.get(), POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&waiting, 1, static_cast<int>(timeout_.count()));
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) throw_errno("poll", "the stub");
  if (ready == 0) {
    throw Refusal(
        Failure::destination_refused,
        fmt::format("the restoring process did nothing for {} s while the loader waited for {}",
                    timeout_.count() / 1000, what));
  }
  Message message{};
  iovec part{&message, sizeof message};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = ::recvmsg(ours_.get(), &header, MSG_CMSG_CLOEXEC);
    // A peer that ended with unread messages shows as one ECONNRESET, before its own last messages.
  } while (got < 0 && (errno == EINTR || errno == ECONNRESET));
  if (got != sizeof message) {
    explain_(nullptr);
    throw Refusal(Failure::destination_refused, "the restoring process is gone");
  }
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_CREDENTIALS) continue;
    ucred sender;
    std::memcpy(&sender, CMSG_DATA(item), sizeof sender);
    peer_pid_ = sender.pid;
  }
  if (message.kind == MessageKind::failed) explain_(&message);
  if (message.kind == MessageKind::slot_free && message.slot < plan::kSlots)
    busy_[message.slot] = false;
  return message;
}

void Channel::await(MessageKind kind, const char* what) {
  while (receive(what).kind != kind) {
  }
}

std::span<std::byte> Channel::next_slot() {
  const uint32_t next = (slot_ + 1) % plan::kSlots;
  while (busy_[next]) receive("a free slot");
  slot_ = next;
  return {ring_ + slot_ * plan::kSlotSize, plan::kSlotSize};
}

std::span<const std::byte> Channel::current_slot() const {
  return {ring_ + slot_ * plan::kSlotSize, plan::kSlotSize};
}

void Channel::submit(size_t size) {
  busy_[slot_] = true;
  Message message{};
  message.kind = MessageKind::data;
  message.slot = slot_;
  message.length = size;
  send(message);
}

void Channel::send(const Message& message) {
  ssize_t sent;
  do {
    sent = ::send(ours_.get(), &message, sizeof message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent == sizeof message) return;
  // The stub has ended: its last message, if any, says why.
  for (;;) receive("its last message");
}

}  // namespace rfork::loader
