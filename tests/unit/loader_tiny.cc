#include "loader_tiny.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "loader/vdso_x86_64.h"

namespace tiny {

using namespace rfork;

Code& Code::bytes(std::initializer_list<int> values) {
  for (const int value : values) bytes_.push_back(static_cast<std::byte>(value));
  return *this;
}

Code& Code::move(int number, uint64_t value) {
  bytes({number >= 8 ? 0x49 : 0x48, 0xb8 + (number & 7)});
  for (int i = 0; i < 8; ++i) bytes({static_cast<int>(value >> (8 * i) & 0xff)});
  return *this;
}

Code& Code::system_call(uint32_t number, std::initializer_list<uint64_t> arguments) {
  constexpr int kRegisters[] = {7, 6, 2, 10, 8, 9};  // rdi rsi rdx r10 r8 r9
  int i = 0;
  for (const uint64_t argument : arguments) move(kRegisters[i++], argument);
  return move(0, number).bytes({0x0f, 0x05});
}

Code& Code::exit_group_with(uint64_t address) {
  return move(3, address).bytes({0x8b, 0x3b}).move(0, 231).bytes({0x0f, 0x05});  // mov (%rbx), %edi
}

Code& Code::increment(uint64_t address) {
  return move(3, address).bytes({0xf0, 0xff, 0x03});
}

Code& Code::await(uint64_t address, uint32_t value) {
  move(3, address).move(1, value);
  return bytes({0xf3, 0x90, 0x39, 0x0b, 0x75, 0xfa});  // 1: pause; cmp %ecx, (%rbx); jne 1b
}

Code& Code::call(uint64_t function) {
  return bytes({0x31, 0xff}).move(0, function).bytes({0xff, 0xd0});
}

image::Mapping& Program::map(uint64_t start, uint64_t size, uint32_t protection) {
  image::Mapping mapping;
  mapping.range = {start, start + size};
  mapping.protection = protection;
  auto& mappings = process().mappings;
  const auto at = std::find_if(mappings.begin(), mappings.end(),
                               [&](const auto& other) { return other.range.start > start; });
  return *mappings.insert(at, mapping);
}

void Program::fill(uint64_t address, Bytes bytes) {
  bytes.resize((bytes.size() + 4095) / 4096 * 4096);
  memory[address] = std::move(bytes);
}

image::Thread& Program::thread(int32_t tid, uint64_t rip, uint64_t rsp) {
  image::Thread thread;
  thread.tid = tid;
  thread.name = "tiny";
  user_regs_struct registers{};
  registers.rip = rip;
  registers.rsp = rsp;
  registers.cs = 0x33;
  registers.ss = 0x2b;
  registers.eflags = 0x202;
  const auto raw = std::as_bytes(std::span(&registers, 1));
  thread.registers.assign(raw.begin(), raw.end());
  thread.floating_point.resize(sizeof(user_fpregs_struct));
  thread.xstate.resize(576);
  const uint32_t mxcsr = 0x1f80;
  std::memcpy(thread.xstate.data() + 24, &mxcsr, sizeof mxcsr);
  return process().threads.emplace_back(thread);
}

image::Description& Program::describe(int fd, image::Description::Kind kind) {
  image::Description description;
  description.id = static_cast<uint32_t>(snapshot.descriptions.size()) + 1;
  description.kind = kind;
  process().descriptors.push_back({fd, description.id, false});
  return snapshot.descriptions.emplace_back(description);
}

// Far from those that the kernel gives next.
int32_t free_pid() {
  for (int32_t pid = 20000 + (::getpid() + 2500) % 5000;; ++pid) {
    if (::access(("/proc/" + std::to_string(pid)).c_str(), F_OK) != 0) return pid;
  }
}

Program program(const Code& code) {
  Program result;
  result.snapshot.host = image::this_host();
  result.snapshot.monotonic_ns = clock_ns(CLOCK_MONOTONIC);
  result.snapshot.boottime_ns = clock_ns(CLOCK_BOOTTIME);
  result.snapshot.realtime_ns = clock_ns(CLOCK_REALTIME);
  image::Process& process = result.snapshot.processes.emplace_back();
  process.pid = free_pid();
  process.name = "tiny";
  process.cwd = "/";
  process.root = "/";
  process.credentials.uid = process.credentials.euid = ::geteuid();
  for (int i = 0; i < 64; ++i) process.actions.push_back({i + 1, 0, 0, 0, 0});
  for (size_t i = 0; i < 16; ++i) {
    rlimit limit{};
    ::getrlimit(static_cast<__rlimit_resource>(i), &limit);
    process.limits[i] = {limit.rlim_cur, limit.rlim_max};
  }
  image::MemoryLayout& layout = process.layout;
  layout.start_code = kCode, layout.end_code = kCode + 4096;
  layout.start_data = kData, layout.end_data = kData + 4096;
  layout.start_brk = layout.brk = 0x700000;
  layout.start_stack = layout.arg_start = layout.arg_end = layout.env_start = layout.env_end =
      kStackEnd - 64;
  process.auxv.resize(16);
  result.map(kCode, 4096, PROT_READ | PROT_EXEC);
  result.map(kData, 4096, PROT_READ | PROT_WRITE);
  image::Mapping& stack = result.map(kStackEnd - kStackSize, kStackSize, PROT_READ | PROT_WRITE);
  stack.grows_down = true;
  stack.name = "[stack]";
  result.fill(kCode, code.get());
  result.thread(process.pid, kCode, kStackEnd - 128);
  for (int fd = 0; fd < 3; ++fd) result.describe(fd, image::Description::Kind::stdio);
  // No executable of its own: any file stands for it.
  image::File none;
  none.id = 1;
  none.path = "/nonexistent";
  result.snapshot.files.push_back(none);
  process.executable = 1;
  return result;
}

uint64_t add_vdso(Program& program, const Bytes& contents) {
  constexpr uint64_t kVdso = 0x7fff00010000;
  for (const loader::SpecialMapping& special : loader::kernel_vdso().layout) {
    const bool code = special.name == "[vdso]";
    image::Mapping& mapping = program.map(kVdso + static_cast<uint64_t>(special.from_vdso),
                                          special.size, code ? PROT_READ | PROT_EXEC : PROT_READ);
    mapping.kind = code ? image::Mapping::Kind::vdso : image::Mapping::Kind::vvar;
    mapping.name = special.name;
  }
  program.fill(kVdso, contents);
  return kVdso;
}

namespace {

/// Encodes and decodes, so that what is restored is what an image can say.
image::Metadata encode(Program& program, Bytes& data) {
  for (const auto& [address, bytes] : program.memory) {
    program.runs.push_back({image::DataRun::Target::memory, 0, {address, address + bytes.size()}});
    data.insert(data.end(), bytes.begin(), bytes.end());
  }
  for (const auto& [id, bytes] : program.objects) {
    program.runs.push_back({image::DataRun::Target::object, id, {0, bytes.size()}});
    data.insert(data.end(), bytes.begin(), bytes.end());
    data.resize((data.size() + 4095) / 4096 * 4096);
  }
  const image::Encoder encoder(program.snapshot, program.runs);
  return image::decode_metadata(encoder.metadata());
}

}  // namespace

Run::Run(Program program, loader::Options options) : program_(std::move(program)) {
  Bytes data;
  metadata_ = encode(program_, data);
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) < 0) throw_errno("pipe2");
  const UniqueFd write_end(fds[1]);
  output_ = fds[0];
  if (options.stdio_output < 0) options.stdio_output = write_end.get();
  restore_ = std::make_unique<loader::Restore>(metadata_, options);
  restore_->start();
  for (size_t at = 0; at < data.size();) {
    const auto slot = restore_->next_slot();
    // Not the whole slot, so that runs cross the borders of slots.
    const size_t size = std::min({slot.size(), data.size() - at, size_t{5000}});
    std::copy_n(data.begin() + static_cast<ptrdiff_t>(at), size, slot.begin());
    restore_->submit(size);
    at += size;
  }
  pid_ = restore_->wait_ready();
}

Run::~Run() {
  restore_.reset();
  ::close(output_);
}

Outcome Run::wait() {
  Outcome outcome;
  outcome.pid = pid_;
  outcome.inner_pid = restore_->inner_pid();
  outcome.warnings = restore_->warnings();
  int status = 0;
  while (::waitpid(restore_->wait_pid(), &status, 0) < 0 && errno == EINTR) {
  }
  outcome.end = restore_->child_end(status);
  char buffer[4096];
  for (ssize_t got; (got = ::read(output_, buffer, sizeof buffer)) > 0;) {
    outcome.output.append(buffer, static_cast<size_t>(got));
  }
  return outcome;
}

Outcome run(Program program, loader::Options options) {
  Run restored(std::move(program), std::move(options));
  restored.go();
  return restored.wait();
}

}  // namespace tiny
