// Which instruction-set extensions a program can use here, by the names of /proc/cpuinfo.
//
// From CPUID rather than /proc/cpuinfo: that file is not there in every container, takes a
// millisecond to read, and leaves out extensions that programs use (avx_vnni_int8 is hidden from
// it). Extensions that only the kernel can use are left out; so are those that every x86-64 has.
#include "image/host_x86_64.h"

#include <cpuid.h>
#include <sys/auxv.h>

#include <algorithm>
#include <array>

namespace rfork::image {

namespace {

enum Register : uint8_t { eax, ebx, ecx, edx };

// State that the kernel must enable in XCR0 before the instructions work.
constexpr uint64_t kAvx = 0x6, kAvx512 = 0xe6, kPkru = 0x200, kAmx = 0x60000, kApx = 0x80000;

struct Feature {
  const char* name;
  uint32_t leaf, subleaf;
  Register where;
  uint8_t bit;
  uint64_t state = 0;  ///< of XCR0
  bool hint = false;   ///< tells of speed, or the instruction does nothing where it is missing
};

constexpr uint32_t kExtended = 0x80000001;

constexpr Feature kFeatures[] = {
    {"pni", 1, 0, ecx, 0},
    {"pclmulqdq", 1, 0, ecx, 1},
    {"ssse3", 1, 0, ecx, 9},
    {"fma", 1, 0, ecx, 12, kAvx},
    {"cx16", 1, 0, ecx, 13},
    {"sse4_1", 1, 0, ecx, 19},
    {"sse4_2", 1, 0, ecx, 20},
    {"movbe", 1, 0, ecx, 22},
    {"popcnt", 1, 0, ecx, 23},
    {"aes", 1, 0, ecx, 25},
    {"xsave", 1, 0, ecx, 27},  // OSXSAVE: the kernel enabled it
    {"avx", 1, 0, ecx, 28, kAvx},
    {"f16c", 1, 0, ecx, 29, kAvx},
    {"rdrand", 1, 0, ecx, 30},

    {"bmi1", 7, 0, ebx, 3},
    {"hle", 7, 0, ebx, 4, 0, true},
    {"avx2", 7, 0, ebx, 5, kAvx},
    {"bmi2", 7, 0, ebx, 8},
    {"erms", 7, 0, ebx, 9, 0, true},
    {"rtm", 7, 0, ebx, 11},
    {"avx512f", 7, 0, ebx, 16, kAvx512},
    {"avx512dq", 7, 0, ebx, 17, kAvx512},
    {"rdseed", 7, 0, ebx, 18},
    {"adx", 7, 0, ebx, 19},
    {"avx512ifma", 7, 0, ebx, 21, kAvx512},
    {"clflushopt", 7, 0, ebx, 23},
    {"clwb", 7, 0, ebx, 24},
    {"avx512pf", 7, 0, ebx, 26, kAvx512},
    {"avx512er", 7, 0, ebx, 27, kAvx512},
    {"avx512cd", 7, 0, ebx, 28, kAvx512},
    {"sha_ni", 7, 0, ebx, 29},
    {"avx512bw", 7, 0, ebx, 30, kAvx512},
    {"avx512vl", 7, 0, ebx, 31, kAvx512},

    {"prefetchwt1", 7, 0, ecx, 0, 0, true},
    {"avx512vbmi", 7, 0, ecx, 1, kAvx512},
    {"ospke", 7, 0, ecx, 4, kPkru},
    {"waitpkg", 7, 0, ecx, 5},
    {"avx512_vbmi2", 7, 0, ecx, 6, kAvx512},
    {"gfni", 7, 0, ecx, 8},
    {"vaes", 7, 0, ecx, 9, kAvx},
    {"vpclmulqdq", 7, 0, ecx, 10, kAvx},
    {"avx512_vnni", 7, 0, ecx, 11, kAvx512},
    {"avx512_bitalg", 7, 0, ecx, 12, kAvx512},
    {"avx512_vpopcntdq", 7, 0, ecx, 14, kAvx512},
    {"rdpid", 7, 0, ecx, 22},
    {"cldemote", 7, 0, ecx, 25, 0, true},
    {"movdiri", 7, 0, ecx, 27},
    {"movdir64b", 7, 0, ecx, 28},
    {"enqcmd", 7, 0, ecx, 29},

    {"avx512_4vnniw", 7, 0, edx, 2, kAvx512},
    {"avx512_4fmaps", 7, 0, edx, 3, kAvx512},
    {"fsrm", 7, 0, edx, 4, 0, true},
    {"avx512_vp2intersect", 7, 0, edx, 8, kAvx512},
    {"serialize", 7, 0, edx, 14},
    {"tsxldtrk", 7, 0, edx, 16},
    {"amx_bf16", 7, 0, edx, 22, kAmx},
    {"avx512_fp16", 7, 0, edx, 23, kAvx512},
    {"amx_tile", 7, 0, edx, 24, kAmx},
    {"amx_int8", 7, 0, edx, 25, kAmx},

    {"sha512", 7, 1, eax, 0, kAvx},
    {"sm3", 7, 1, eax, 1, kAvx},
    {"sm4", 7, 1, eax, 2, kAvx},
    {"avx_vnni", 7, 1, eax, 4, kAvx},
    {"avx512_bf16", 7, 1, eax, 5, kAvx512},
    {"cmpccxadd", 7, 1, eax, 7},
    {"fzrm", 7, 1, eax, 10, 0, true},
    {"fsrs", 7, 1, eax, 11, 0, true},
    {"fsrc", 7, 1, eax, 12, 0, true},
    {"amx_fp16", 7, 1, eax, 21, kAmx},
    {"avx_ifma", 7, 1, eax, 23, kAvx},
    {"avx_vnni_int8", 7, 1, edx, 4, kAvx},
    {"avx_ne_convert", 7, 1, edx, 5, kAvx},
    {"amx_complex", 7, 1, edx, 8, kAmx},
    {"avx_vnni_int16", 7, 1, edx, 10, kAvx},
    {"prefetchi", 7, 1, edx, 14, 0, true},
    {"avx10", 7, 1, edx, 19, kAvx512},
    {"apx", 7, 1, edx, 21, kApx},

    {"xsaveopt", 0xd, 1, eax, 0},
    {"xsavec", 0xd, 1, eax, 1},
    {"xgetbv1", 0xd, 1, eax, 2},

    {"lahf_lm", kExtended, 0, ecx, 0},
    {"abm", kExtended, 0, ecx, 5},
    {"sse4a", kExtended, 0, ecx, 6},
    {"3dnowprefetch", kExtended, 0, ecx, 8, 0, true},
    {"xop", kExtended, 0, ecx, 11, kAvx},
    {"fma4", kExtended, 0, ecx, 16, kAvx},
    {"tbm", kExtended, 0, ecx, 21},
    {"mwaitx", kExtended, 0, ecx, 29},
    {"rdtscp", kExtended, 0, edx, 27},
    {"3dnowext", kExtended, 0, edx, 30},
    {"3dnow", kExtended, 0, edx, 31},
    {"clzero", 0x80000008, 0, ebx, 0},
    {"rdpru", 0x80000008, 0, ebx, 4},
};

/// All zeros for a leaf that the processor doesn't have.
std::array<uint32_t, 4> cpuid(uint32_t leaf, uint32_t subleaf) {
  std::array<uint32_t, 4> out{};
  __get_cpuid_count(leaf, subleaf, &out[eax], &out[ebx], &out[ecx], &out[edx]);
  return out;
}

uint64_t read_xcr0() {
  constexpr uint32_t kOsxsave = 1u << 27;
  if ((cpuid(1, 0)[ecx] & kOsxsave) == 0) return 3;  // x87 and SSE, by FXSAVE
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

/// RDFSBASE and the like work only if the kernel allowed them.
bool has_fsgsbase() {
  constexpr unsigned long kHwcap2Fsgsbase = 1u << 1;  // arch/x86/include/uapi/asm/hwcap2.h
  return (cpuid(7, 0)[ebx] & 1) != 0 && (getauxval(AT_HWCAP2) & kHwcap2Fsgsbase) != 0;
}

std::vector<XstateComponent> xstate_layout(uint64_t xcr0) {
  constexpr uint32_t kSupervisor = 1;
  std::vector<XstateComponent> components;
  for (uint32_t i = 2; i < 63; ++i) {
    if ((xcr0 >> i & 1) == 0) continue;
    const auto leaf = cpuid(0xd, i);
    if (leaf[eax] == 0 || (leaf[ecx] & kSupervisor) != 0) continue;
    components.push_back({i, leaf[ebx], leaf[eax]});
  }
  return components;
}

}  // namespace

void describe_cpu(Host& host) {
  host.architecture = "x86_64";
  host.xcr0 = read_xcr0();
  host.xstate = xstate_layout(host.xcr0);
  // CPUID traps in a virtual machine, which makes it slow: each leaf once. The table is sorted by
  // leaf.
  uint32_t leaf = 0, subleaf = 0;
  std::array<uint32_t, 4> registers{};
  for (const Feature& feature : kFeatures) {
    if (feature.leaf != leaf || feature.subleaf != subleaf) {
      leaf = feature.leaf;
      subleaf = feature.subleaf;
      registers = cpuid(leaf, subleaf);
    }
    if ((registers[feature.where] >> feature.bit & 1) == 0) continue;
    if ((host.xcr0 & feature.state) != feature.state) continue;
    (feature.hint ? host.cpu_hints : host.cpu_features).emplace_back(feature.name);
  }
  if (has_fsgsbase()) host.cpu_features.emplace_back("fsgsbase");
  std::ranges::sort(host.cpu_features);
  std::ranges::sort(host.cpu_hints);
}

const char* name_of_xstate_component(unsigned index) {
  constexpr std::array kNames{"x87",
                              "SSE",
                              "AVX",
                              "MPX bounds registers",
                              "MPX configuration",
                              "AVX-512 mask registers",
                              "AVX-512 upper halves of ZMM0-15",
                              "AVX-512 ZMM16-31",
                              "processor trace",
                              "protection keys (PKRU)"};
  if (index < kNames.size()) return kNames[index];
  if (index == 17) return "AMX tile configuration";
  if (index == 18) return "AMX tile data";
  if (index == 19) return "APX registers";
  return "a later extension's state";
}

}  // namespace rfork::image
