#include "tracer/page_pipe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <stdexcept>

#include "base/error.h"
#include "base/io.h"
#include "tracer/ptrace.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kIovecOffset = 64;          // in the copy's page, behind the code
constexpr size_t kCapacity = size_t{1} << 20;  // /proc/sys/fs/pipe-max-size unless set
constexpr size_t kWorthwhile = 64 * kPage;  // a call of the copy costs as much as reading 30 pages
constexpr std::array<uint8_t, 3> kCode = {0x0f, 0x05, 0xcc};  // syscall; int3

}  // namespace

std::unique_ptr<PagePipe> PagePipe::make(RemoteSyscalls& calls, const ProcessMemory& memory) {
  // The copy shares its table with the original, which runs.
  if (calls.call(SYS_close_range, {0, UINT32_MAX, CLOSE_RANGE_UNSHARE}) != 0) return nullptr;
  if (calls.call(SYS_pipe2, {calls.scratch(), O_CLOEXEC}) != 0) return nullptr;
  const auto ends = memory.read_value<std::array<int, 2>>(calls.scratch());
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, memory.pid(), 0)));
  if (!process) return nullptr;
  UniqueFd out(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), ends[0], 0)));
  if (!out) return nullptr;
  const int capacity = ::fcntl(out.get(), F_SETPIPE_SZ, kCapacity);
  if (capacity < static_cast<int>(kWorthwhile)) return nullptr;
  const long page = calls.call(
      SYS_mmap, {0, kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, UINT64_MAX, 0});
  if (page < 0) return nullptr;
  if (!memory.try_write(static_cast<uint64_t>(page), std::as_bytes(std::span(kCode))))
    return nullptr;
  return std::unique_ptr<PagePipe>(new PagePipe(memory, static_cast<uint64_t>(page), ends[1],
                                                std::move(out), static_cast<size_t>(capacity)));
}

PagePipe::PagePipe(const ProcessMemory& memory, uint64_t page, int in, UniqueFd out,
                   size_t capacity)
    : memory_(memory), page_(page), in_(in), out_(std::move(out)), capacity_(capacity) {}

void PagePipe::read(uint64_t address, std::span<std::byte> buffer, uint64_t run_end) {
  while (!buffer.empty()) {
    if (queued_.size() == 0) {
      const uint64_t size = std::min<uint64_t>(run_end - address, capacity_);
      if (size < kWorthwhile || !splice(address, size)) return memory_.read(address, buffer);
    }
    if (address != queued_.start) throw std::logic_error("pages are read out of order");
    const auto part = buffer.first(std::min<size_t>(buffer.size(), queued_.size()));
    if (read_full(out_.get(), part, "pages of the copy") != part.size())
      throw ProcessGone(memory_.pid());
    queued_.start = address += part.size();
    buffer = buffer.subspan(part.size());
  }
}

// Queues as much of it as can be had; false if none. What the copy itself may not read (PROT_NONE)
// can't be had so.
bool PagePipe::splice(uint64_t address, uint64_t size) {
  const pid_t pid = memory_.pid();
  if (!ready_) {
    registers_ = registers(pid);
    set_signal_mask(pid, ~uint64_t{0});
    ready_ = true;
  }
  const iovec pages{reinterpret_cast<void*>(address), size};
  if (!memory_.try_write(page_ + kIovecOffset, std::as_bytes(std::span(&pages, 1)))) return false;
  user_regs_struct regs = registers_;
  regs.rip = page_;
  regs.rax = SYS_vmsplice;
  regs.orig_rax = ~uint64_t{0};  // no system call to restart
  regs.rdi = static_cast<uint64_t>(in_);
  regs.rsi = page_ + kIovecOffset;
  regs.rdx = 1;
  regs.r10 = SPLICE_F_NONBLOCK;
  set_registers(pid, regs);
  for (;;) {
    resume(pid, PTRACE_CONT);
    const WaitStatus status = wait_for(pid);
    if (status.gone()) throw ProcessGone(pid);
    if (status.kind() == WaitStatus::Kind::signal_delivery_stop && status.signal() == SIGTRAP)
      break;
  }
  const auto queued = static_cast<int64_t>(registers(pid).rax);
  if (queued <= 0) return false;
  queued_ = {address, address + static_cast<uint64_t>(queued)};
  return true;
}

}  // namespace rfork::tracer
