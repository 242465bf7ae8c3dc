#include "loader/vdso_x86_64.h"

#include <elf.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <sstream>

#include "base/error.h"

namespace rfork::loader {

namespace {

using Code = std::span<const std::byte>;

/// A T at `offset`, or nullopt past the end.
template <typename T>
std::optional<T> read_at(Code code, uint64_t offset) {
  if (offset > code.size() || code.size() - offset < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, code.data() + offset, sizeof value);
  return value;
}

std::string string_at(Code code, uint64_t offset) {
  std::string text;
  for (; offset < code.size() && code[offset] != std::byte{0}; ++offset) {
    text += static_cast<char>(code[offset]);
  }
  return text;
}

template <typename T>
void append(Bytes& bytes, T value) {
  const auto* raw = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), raw, raw + sizeof value);
}

Bytes raw_bytes(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

/// mov rax, imm64; jmp rax.
Bytes jump_to(uint64_t address) {
  Bytes bytes = raw_bytes({0x48, 0xb8});
  append(bytes, address);
  append(bytes, uint16_t{0xe0ff});
  return bytes;
}

/// mov eax, number; syscall; ret.
Bytes plain_call(uint32_t number) {
  Bytes bytes = raw_bytes({0xb8});
  append(bytes, number);
  for (const std::byte byte : raw_bytes({0x0f, 0x05, 0xc3})) bytes.push_back(byte);
  return bytes;
}

constexpr std::pair<const char*, uint32_t> kPlainCalls[] = {
    {"__vdso_clock_gettime", SYS_clock_gettime},
    {"__vdso_gettimeofday", SYS_gettimeofday},
    {"__vdso_clock_getres", SYS_clock_getres},
    {"__vdso_time", SYS_time},
    {"__vdso_getcpu", SYS_getcpu},
    {"__vdso_getrandom", SYS_getrandom},
};

}  // namespace

KernelVdso kernel_vdso() {
  KernelVdso kernel;
  const uint64_t vdso = ::getauxval(AT_SYSINFO_EHDR);
  std::istringstream maps(read_file("/proc/self/maps"));
  for (std::string line; std::getline(maps, line);) {
    const size_t bracket = line.find('[');
    if (bracket == std::string::npos) continue;
    const std::string name = line.substr(bracket);
    if (name != "[vdso]" && !name.starts_with("[vvar")) continue;
    const uint64_t start = std::stoull(line, nullptr, 16);
    const uint64_t end = std::stoull(line.substr(line.find('-') + 1), nullptr, 16);
    kernel.layout.push_back({name, static_cast<int64_t>(start - vdso), end - start});
    if (name == "[vdso]") {
      const auto* code = reinterpret_cast<const std::byte*>(start);
      kernel.code.assign(code, code + (end - start));
    }
  }
  if (vdso == 0 || kernel.code.empty() || kernel.layout.size() > 4) {
    throw Refusal(Failure::destination_refused,
                  "this kernel's vDSO can't be found in /proc/self/maps");
  }
  return kernel;
}

std::vector<SpecialMapping> special_layout(std::span<const image::Mapping> mappings) {
  using Kind = image::Mapping::Kind;
  const auto vdso = std::find_if(mappings.begin(), mappings.end(),
                                 [](const auto& mapping) { return mapping.kind == Kind::vdso; });
  std::vector<SpecialMapping> layout;
  if (vdso == mappings.end()) return layout;
  for (const image::Mapping& mapping : mappings) {
    if (mapping.kind != Kind::vdso && mapping.kind != Kind::vvar) continue;
    layout.push_back({mapping.name, static_cast<int64_t>(mapping.range.start - vdso->range.start),
                      mapping.range.size()});
  }
  return layout;
}

std::optional<uint64_t> elf_end(Code code) {
  const auto header = read_at<Elf64_Ehdr>(code, 0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return std::nullopt;
  uint64_t end = header->e_shoff + uint64_t{header->e_shnum} * header->e_shentsize;
  for (unsigned i = 0; i < header->e_phnum; ++i) {
    const auto segment = read_at<Elf64_Phdr>(code, header->e_phoff + i * sizeof(Elf64_Phdr));
    if (!segment) return std::nullopt;
    end = std::max(end, segment->p_offset + segment->p_filesz);
  }
  if (end > code.size() || end < sizeof(Elf64_Ehdr)) return std::nullopt;
  return end;
}

bool same_vdso(Code a, Code b) {
  const auto end_a = elf_end(a), end_b = elf_end(b);
  return end_a && end_a == end_b && a.size() == b.size() &&
         std::equal(a.begin(), a.begin() + static_cast<ptrdiff_t>(*end_a), b.begin());
}

std::map<std::string, uint64_t> vdso_functions(Code code) {
  std::map<std::string, uint64_t> functions;
  const auto header = read_at<Elf64_Ehdr>(code, 0);
  if (!header || !elf_end(code)) return functions;
  for (unsigned i = 0; i < header->e_shnum; ++i) {
    const auto section = read_at<Elf64_Shdr>(code, header->e_shoff + i * sizeof(Elf64_Shdr));
    if (!section || section->sh_type != SHT_DYNSYM) continue;
    const auto strings =
        read_at<Elf64_Shdr>(code, header->e_shoff + section->sh_link * sizeof(Elf64_Shdr));
    if (!strings) continue;
    for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= section->sh_size; at += sizeof(Elf64_Sym)) {
      const auto symbol = read_at<Elf64_Sym>(code, section->sh_offset + at);
      if (!symbol) break;
      const std::string name = string_at(code, strings->sh_offset + symbol->st_name);
      if (ELF64_ST_TYPE(symbol->st_info) == STT_FUNC && symbol->st_value < code.size() &&
          name.starts_with("__vdso_")) {
        functions[name] = symbol->st_value;
      }
    }
  }
  return functions;
}

std::vector<CodePatch> redirect_vdso(Code there, Code here, uint64_t here_address) {
  const auto ours = vdso_functions(here);
  std::vector<CodePatch> patches;
  for (const auto& [name, offset] : vdso_functions(there)) {
    Bytes code;
    if (const auto own = ours.find(name); own != ours.end()) {
      code = jump_to(here_address + own->second);
    } else {
      for (const auto& [known, number] : kPlainCalls) {
        if (name == known) code = plain_call(number);
      }
    }
    // What isn't known (__vdso_sgx_enter_enclave) reads no kernel data and works as it is.
    if (!code.empty() && offset + code.size() <= there.size()) patches.push_back({offset, code});
  }
  return patches;
}

Bytes exit_code() {
  return raw_bytes({
      0xf0, 0xff,
      0x0f,        // lock decl (%rdi)
      0x75, 0x0d,  // jnz 1f
      0xb8, SYS_munmap,
      0,    0,
      0,  // mov $SYS_munmap, %eax
      0x4c, 0x89,
      0xe7,  // mov %r12, %rdi
      0x4c, 0x89,
      0xee,        // mov %r13, %rsi
      0x0f, 0x05,  // syscall
      0xb8, SYS_rt_sigreturn,
      0,    0,
      0,           // 1: mov $SYS_rt_sigreturn, %eax
      0x0f, 0x05,  // syscall
  });
}

std::optional<uint64_t> room_for_exit_code(Code vdso) {
  const auto end = elf_end(vdso);
  if (!end) return std::nullopt;
  const uint64_t at = (*end + 15) & ~uint64_t{15};
  const uint64_t size = exit_code().size();
  if (at + size > vdso.size()) return std::nullopt;
  return at;
}

}  // namespace rfork::loader
