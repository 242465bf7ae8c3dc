#include "loader/seccomp_filters.h"

#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <cstring>
#include <optional>
#include <span>

namespace rfork::loader {

using image::Process;
using image::Thread;

namespace {

std::vector<sock_filter> instructions_of(const Bytes& program) {
  std::vector<sock_filter> code(program.size() / sizeof(sock_filter));
  std::memcpy(code.data(), program.data(), code.size() * sizeof(sock_filter));
  return code;
}

/// The machine of classic BPF as far as seccomp lets filters use it (kernel/seccomp.c:
/// seccomp_check_filter).
struct Machine {
  const Bytes& data;
  uint32_t a = 0, x = 0;
  std::array<uint32_t, BPF_MEMWORDS> memory{};

  std::optional<uint32_t> load(const sock_filter& op) const {
    switch (BPF_MODE(op.code)) {
      case BPF_ABS: {
        uint32_t word;
        if (op.k % 4 != 0 || op.k + sizeof word > data.size()) return std::nullopt;
        std::memcpy(&word, data.data() + op.k, sizeof word);
        return word;
      }
      case BPF_IMM:
        return op.k;
      case BPF_LEN:
        return static_cast<uint32_t>(data.size());
      case BPF_MEM:
        if (op.k < memory.size()) return memory[op.k];
    }
    return std::nullopt;
  }

  bool calculate(const sock_filter& op) {
    const uint32_t value = BPF_SRC(op.code) == BPF_X ? x : op.k;
    switch (BPF_OP(op.code)) {
      case BPF_ADD:
        return a += value, true;
      case BPF_SUB:
        return a -= value, true;
      case BPF_MUL:
        return a *= value, true;
      case BPF_DIV:
        return value != 0 && (a /= value, true);
      case BPF_AND:
        return a &= value, true;
      case BPF_OR:
        return a |= value, true;
      case BPF_XOR:
        return a ^= value, true;
      case BPF_LSH:
        return a = value < 32 ? a << value : 0, true;
      case BPF_RSH:
        return a = value < 32 ? a >> value : 0, true;
      case BPF_NEG:
        return a = -a, true;
    }
    return false;
  }

  std::optional<uint32_t> jump(const sock_filter& op) const {
    const uint32_t value = BPF_SRC(op.code) == BPF_X ? x : op.k;
    const auto choose = [&](bool holds) { return uint32_t{holds ? op.jt : op.jf}; };
    switch (BPF_OP(op.code)) {
      case BPF_JA:
        return op.k;
      case BPF_JEQ:
        return choose(a == value);
      case BPF_JGT:
        return choose(a > value);
      case BPF_JGE:
        return choose(a >= value);
      case BPF_JSET:
        return choose((a & value) != 0);
    }
    return std::nullopt;
  }

  /// Neither a jump nor the end.
  bool step(const sock_filter& op) {
    switch (BPF_CLASS(op.code)) {
      case BPF_LD:
      case BPF_LDX: {
        const auto word = load(op);
        if (word) (BPF_CLASS(op.code) == BPF_LD ? a : x) = *word;
        return word.has_value();
      }
      case BPF_ST:
      case BPF_STX:
        if (op.k >= memory.size()) return false;
        memory[op.k] = BPF_CLASS(op.code) == BPF_ST ? a : x;
        return true;
      case BPF_ALU:
        return calculate(op);
      case BPF_MISC:
        (BPF_MISCOP(op.code) == BPF_TAX ? x : a) = BPF_MISCOP(op.code) == BPF_TAX ? a : x;
        return true;
    }
    return false;
  }
};

}  // namespace

uint32_t evaluate_filter(const Bytes& program, const Bytes& data) {
  const std::vector<sock_filter> code = instructions_of(program);
  Machine machine{data};
  for (uint64_t at = 0; at < code.size(); ++at) {
    const sock_filter& op = code[at];
    if (BPF_CLASS(op.code) == BPF_RET) return BPF_RVAL(op.code) == BPF_A ? machine.a : op.k;
    if (BPF_CLASS(op.code) != BPF_JMP) {
      if (!machine.step(op)) break;
      continue;
    }
    const auto distance = machine.jump(op);
    if (!distance) break;
    at += *distance;
  }
  return SECCOMP_RET_KILL_PROCESS;
}

namespace {

/// Whether the first `count` filters of the thread let it make the call.
bool permitted(const Process& process, const Thread& thread, size_t count, int number,
               std::initializer_list<uint64_t> arguments) {
  seccomp_data call{};
  call.nr = number;
  call.arch = AUDIT_ARCH_X86_64;
  std::copy(arguments.begin(), arguments.end(), call.args);
  Bytes data(sizeof call);
  std::memcpy(data.data(), &call, sizeof call);
  for (size_t i = 0; i < count; ++i) {
    const Bytes& program = process.seccomp_filters[thread.seccomp_filters[i]].program;
    const uint32_t action = evaluate_filter(program, data) & SECCOMP_RET_ACTION_FULL;
    if (action != SECCOMP_RET_ALLOW && action != SECCOMP_RET_LOG) return false;
  }
  return true;
}

constexpr uint64_t kKeepSpeculation = SECCOMP_FILTER_FLAG_SPEC_ALLOW;

uint64_t flags_of(const image::SeccompFilter& filter) {
  // Speculation is set apart from it (attributes.h).
  return kKeepSpeculation | (filter.log ? SECCOMP_FILTER_FLAG_LOG : 0);
}

/// The call that installs filter `index` under those before it; the arguments but for the address
/// of the filter.
struct Installation {
  int number = SYS_seccomp;
  uint64_t first = SECCOMP_SET_MODE_FILTER, second = 0;
};
std::optional<Installation> installation(const Process& process, const Thread& thread,
                                         size_t index) {
  const image::SeccompFilter& filter = process.seccomp_filters[thread.seccomp_filters[index]];
  for (const Installation& way :
       {Installation{SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags_of(filter)},
        Installation{SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER}}) {
    if (way.number == SYS_prctl && filter.log) continue;
    if (permitted(process, thread, index, way.number, {way.first, way.second})) return way;
  }
  return std::nullopt;
}

std::optional<std::string> why_not(const Process& process, const Thread& thread) {
  if (!thread.no_new_privs.value_or(process.no_new_privs))
    return "has a seccomp filter and no no_new_privs";
  for (size_t i = 0; i < thread.seccomp_filters.size(); ++i) {
    if (!installation(process, thread, i))
      return "has a seccomp filter that forbids the next one to be installed";
  }
  if (!permitted(process, thread, thread.seccomp_filters.size(), SYS_rt_sigreturn, {}))
    return "has a seccomp filter that forbids rt_sigreturn";
  return std::nullopt;
}

}  // namespace

bool has_seccomp(const Thread& thread) {
  return thread.seccomp_mode != SECCOMP_MODE_DISABLED;
}

void check_seccomp(const Process& process, Findings& findings) {
  for (const Thread& thread : process.threads) {
    if (thread.seccomp_mode != SECCOMP_MODE_FILTER) continue;
    if (const auto why = why_not(process, thread))
      findings.refuse(fmt::format("thread {} {}: it can't be set again", thread.tid, *why));
  }
}

namespace {

/// Machine code, as far as it is needed here.
class Code {
 public:
  void bytes(std::initializer_list<uint8_t> list) {
    for (const uint8_t byte : list) out_.push_back(static_cast<std::byte>(byte));
  }
  template <typename T>
  void number(T value) {
    const auto raw = std::as_bytes(std::span(&value, 1));
    out_.insert(out_.end(), raw.begin(), raw.end());
  }
  void append(const Bytes& bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  size_t size() const { return out_.size(); }
  void pad(size_t size) { out_.resize(size); }
  Bytes take() { return std::move(out_); }

  /// Ends the process unless the call gives 0.
  void call(int number_of_call, uint64_t first, uint64_t second, uint64_t third) {
    bytes({0xb8}), number(static_cast<uint32_t>(number_of_call));  // mov $number, %eax
    bytes({0xbf}), number(static_cast<uint32_t>(first));           // mov $first, %edi
    bytes({0xbe}), number(static_cast<uint32_t>(second));          // mov $second, %esi
    bytes({0x48, 0xba}), number(third);                            // movabs $third, %rdx
    bytes({0x0f, 0x05});                                           // syscall
    bytes({0x48, 0x85, 0xc0});                                     // test %rax, %rax
    bytes({0x74, 0x02, 0x0f, 0x0b});                               // jz 1f; ud2; 1:
  }

 private:
  Bytes out_;
};

constexpr size_t kCallSize = 5 + 5 + 5 + 10 + 2 + 3 + 4;
constexpr size_t kAround = 64;  // what exit_code() has before and behind the calls

}  // namespace

Bytes seccomp_exit_code(const Process& process, const Thread& thread, uint64_t place) {
  Code code;
  code.bytes({0xf0, 0xff, 0x0f});                                      // lock decl (%rdi)
  code.bytes({0x75, 0x0d});                                            // jnz 1f
  code.bytes({0xb8}), code.number(static_cast<uint32_t>(SYS_munmap));  // mov $SYS_munmap, %eax
  code.bytes({0x4c, 0x89, 0xe7, 0x4c, 0x89, 0xee});  // mov %r12, %rdi; mov %r13, %rsi
  code.bytes({0x0f, 0x05});                          // syscall; 1:
  const size_t count = thread.seccomp_filters.size();
  const size_t data_at = kAround + (count + 1) * kCallSize;
  Code data;
  for (size_t i = 0; i < count; ++i) {
    const Bytes& program = process.seccomp_filters[thread.seccomp_filters[i]].program;
    const uint64_t at = place + data_at + data.size();
    const auto way = installation(process, thread, i).value_or(Installation{});
    code.call(way.number, way.first, way.second, at);
    data.number(static_cast<uint64_t>(program.size() / sizeof(sock_filter)));  // struct sock_fprog
    data.number(at + 16);
    data.append(program);
  }
  if (thread.seccomp_mode == SECCOMP_MODE_STRICT)
    code.call(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0);
  code.bytes({0xb8}), code.number(static_cast<uint32_t>(SYS_rt_sigreturn));
  code.bytes({0x0f, 0x05});  // mov $SYS_rt_sigreturn, %eax; syscall
  code.pad(data_at);
  code.append(data.take());
  code.pad((code.size() + 15) & ~size_t{15});
  return code.take();
}

}  // namespace rfork::loader
