// The notes that a core file of the kernel has, for the readers of core files: struct layouts and
// order of fs/binfmt_elf.c (fill_note_info, write_note_info).
#include <sys/procfs.h>
#include <sys/user.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "image/json.h"
#include "image/notes.h"

namespace rfork::image {

namespace {

constexpr std::string_view kCore = "CORE";
constexpr std::string_view kLinux = "LINUX";

// Software's bytes of the FXSAVE area. Debuggers read XCR0 from the first eight, where ptrace puts
// it (USER_XSTATE_XCR0_WORD in arch/x86/include/asm/user.h).
constexpr size_t kXcr0Offset = 464;

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

uint64_t signal_set(const std::vector<PendingSignal>& pending) {
  uint64_t set = 0;
  for (const PendingSignal& signal : pending) {
    int32_t number;
    std::memcpy(&number, signal.data(), sizeof number);
    if (number >= 1 && number <= 64) set |= uint64_t{1} << (number - 1);
  }
  return set;
}

void add_prstatus(const Process& process, const Thread& thread, NoteWriter& writer) {
  elf_prstatus status{};
  status.pr_info.si_signo = process.stop_signal;
  status.pr_cursig = static_cast<short>(process.stop_signal);
  status.pr_sigpend = signal_set(thread.pending);
  status.pr_sighold = thread.signal_mask;
  status.pr_pid = thread.tid;
  status.pr_ppid = process.ppid;
  status.pr_pgrp = process.pgid;
  status.pr_sid = process.sid;
  status.pr_fpvalid = 1;
  static_assert(sizeof status.pr_reg == sizeof(user_regs_struct));
  std::memcpy(&status.pr_reg, thread.registers.data(),
              std::min(thread.registers.size(), sizeof status.pr_reg));
  writer.add(kCore, NT_PRSTATUS, bytes_of(status));
}

void add_prpsinfo(const Process& process, NoteWriter& writer) {
  elf_prpsinfo info{};
  const bool stopped = process.stop_signal != 0;
  info.pr_state = stopped ? 3 : 0;
  info.pr_sname = stopped ? 'T' : 'R';
  info.pr_nice = static_cast<char>(process.threads[0].nice);
  info.pr_uid = process.credentials.uid;
  info.pr_gid = process.credentials.gid;
  info.pr_pid = process.pid;
  info.pr_ppid = process.ppid;
  info.pr_pgrp = process.pgid;
  info.pr_sid = process.sid;
  process.name.copy(info.pr_fname, sizeof info.pr_fname - 1);
  std::string arguments;
  for (const std::string& argument : process.command_line) {
    if (!arguments.empty()) arguments += ' ';
    arguments += argument;
    if (arguments.size() >= sizeof info.pr_psargs) break;
  }
  arguments.copy(info.pr_psargs, sizeof info.pr_psargs - 1);
  writer.add(kCore, NT_PRPSINFO, bytes_of(info));
}

void add_siginfo(const Process& process, NoteWriter& writer) {
  PendingSignal info{};
  const int32_t signal = process.stop_signal;
  std::memcpy(info.data(), &signal, sizeof signal);
  writer.add(kCore, NT_SIGINFO, info);
}

/// The file mappings, with offsets in pages: count, page size, (start, end, offset) each, then the
/// names. The kernel lists memfds and deleted files too; gdb then complains that it can't open
/// them, and the image shows it their bytes.
void add_file_note(const Snapshot& snapshot, const Process& process, NoteWriter& writer) {
  std::vector<uint64_t> numbers{0, snapshot.host.page_size};
  std::string names;
  for (const Mapping& mapping : process.mappings) {
    if (mapping.kind != Mapping::Kind::file) continue;
    ++numbers[0];
    numbers.insert(numbers.end(), {mapping.range.start, mapping.range.end,
                                   mapping.offset / snapshot.host.page_size});
    names += mapping.name;
    names += '\0';
  }
  if (numbers[0] == 0) return;
  const auto head = std::as_bytes(std::span(numbers));
  Bytes descriptor(head.begin(), head.end());
  const auto tail = as_bytes(names);
  descriptor.insert(descriptor.end(), tail.begin(), tail.end());
  writer.add(kCore, NT_FILE, descriptor);
}

void add_xstate(const Host& host, const Thread& thread, NoteWriter& writer) {
  Bytes area = thread.xstate;
  if (area.size() >= kXcr0Offset + sizeof host.xcr0 && host.xcr0 != 0) {
    std::memcpy(area.data() + kXcr0Offset, &host.xcr0, sizeof host.xcr0);
  }
  writer.add(kLinux, NT_X86_XSTATE, area);
}

}  // namespace

void write_core_notes(const Snapshot& snapshot, NoteWriter& writer) {
  const Process& process = snapshot.processes[0];
  for (const Thread& thread : process.threads) {
    const bool first = &thread == &process.threads.front();
    add_prstatus(process, thread, writer);
    if (first) add_prpsinfo(process, writer);
    if (first) add_siginfo(process, writer);
    if (first) writer.add(kCore, NT_AUXV, process.auxv);
    if (first) add_file_note(snapshot, process, writer);
    writer.add(kCore, NT_FPREGSET, thread.floating_point);
    add_xstate(snapshot.host, thread, writer);
    if (!first) add_siginfo(process, writer);
  }
}

std::pair<int32_t, std::span<const std::byte>> read_prstatus(
    std::span<const std::byte> descriptor) {
  elf_prstatus status;
  if (descriptor.size() != sizeof status) throw FieldError("NT_PRSTATUS", "has another size");
  std::memcpy(&status, descriptor.data(), sizeof status);
  return {status.pr_pid, descriptor.subspan(offsetof(elf_prstatus, pr_reg), sizeof status.pr_reg)};
}

}  // namespace rfork::image
