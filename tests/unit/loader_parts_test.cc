// The loader's pure parts: free addresses, the vDSO's bytes, signal frames.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/user.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "image/host.h"
#include "image/signal_frame_x86_64.h"
#include "loader/address_space.h"
#include "loader/internet_name.h"
#include "loader/vdso_x86_64.h"

using namespace rfork;
using namespace rfork::loader;

namespace {

image::Mapping mapping(uint64_t start, uint64_t end, bool grows_down = false) {
  image::Mapping result;
  result.range = {start, end};
  result.protection = PROT_READ | PROT_WRITE;
  result.grows_down = grows_down;
  return result;
}

constexpr uint64_t kLimit = 0x7ffffffff000;

uint64_t word_at(const Bytes& bytes, uint64_t offset) {
  uint64_t value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// A thread with XSAVE component 2 (AVX) in use where `there` has it.
image::Thread avx_thread(const image::Host& there) {
  image::Thread thread;
  thread.tid = 7;
  thread.registers.resize(sizeof(user_regs_struct));
  const auto& avx = there.xstate.at(0);
  thread.xstate.resize(avx.offset + avx.size);
  const uint64_t in_use = 1u << 1 | 1u << avx.index;
  std::memcpy(thread.xstate.data() + 512, &in_use, sizeof in_use);
  thread.xstate[avx.offset] = std::byte{0xab};
  const uint32_t mxcsr = 0xffff1f80;
  std::memcpy(thread.xstate.data() + 24, &mxcsr, sizeof mxcsr);
  return thread;
}

image::Host host_with(std::vector<image::XstateComponent> components) {
  image::Host host;
  host.xcr0 = 3;
  for (const auto& component : components) host.xcr0 |= 1ull << component.index;
  host.xstate = std::move(components);
  return host;
}

}  // namespace

TEST_CASE("the hole overlaps nothing and avoids where programs are put") {
  const std::vector mappings{mapping(0x100000000000, 0x100000200000),
                             mapping(0x100000300000, 0x100000400000)};
  const AddressSpace space(mappings, kLimit);
  CHECK(space.place_for_hole(0x1000) == 0x100000200000);
  CHECK(space.place_for_hole(0x200000) == 0x100000400000);
  CHECK(space.is_free({0x100000200000, 0x100000300000}));
  CHECK_FALSE(space.is_free({0x1000001ff000, 0x100000300000}));
  const std::vector all{mapping(0x1000, kLimit)};
  CHECK_FALSE(AddressSpace(all, kLimit).place_for_hole(0x1000));
}

TEST_CASE("what stays keeps away from brk and from stacks that grow") {
  const uint64_t stack = 0x7ffe00000000;
  const std::vector mappings{mapping(0x400000, 0x500000), mapping(stack, stack + 0x10000, true),
                             mapping(0x7fff00000000, 0x7fff00002000)};
  const AddressSpace space(mappings, kLimit);
  const auto place = space.place_to_stay(0x4000, 0x7fff00000000, 0x600000);
  REQUIRE(place);
  CHECK(*place == 0x7fff00000000 - 0x4000);
  const auto below = space.place_to_stay(0x4000, stack, 0x600000);
  REQUIRE(below);
  CHECK(*below + 0x4000 <= stack - (64u << 20));
}

TEST_CASE("the vDSO of this kernel is understood") {
  const KernelVdso kernel = kernel_vdso();
  CHECK(vdso_functions(kernel.code).contains("__vdso_clock_gettime"));
  CHECK(same_vdso(kernel.code, kernel.code));
  const uint64_t end = elf_end(kernel.code).value();
  Bytes changed = kernel.code;
  if (end < changed.size()) {
    changed.back() = std::byte{1};
    CHECK(same_vdso(kernel.code, changed));
  }
  changed[end / 2] ^= std::byte{1};
  CHECK_FALSE(same_vdso(kernel.code, changed));
}

TEST_CASE("a damaged vDSO is no vDSO") {
  const Bytes code = kernel_vdso().code;
  for (size_t size = 0; size < code.size(); size += 7) {
    const Bytes cut(code.begin(), code.begin() + static_cast<ptrdiff_t>(size));
    const auto functions = vdso_functions(cut);
    if (!elf_end(cut)) CHECK(functions.empty());
  }
  Bytes damaged = code;
  for (size_t i = 0; i < damaged.size(); i += 3) {
    damaged[i] ^= std::byte{0x5a};
    vdso_functions(damaged);
    redirect_vdso(damaged, code, 0x1000);
  }
}

TEST_CASE("old functions jump to those of the same name, or call the kernel") {
  const Bytes there = kernel_vdso().code;
  const auto functions = vdso_functions(there);
  const auto patches = redirect_vdso(there, there, 0x7000000);
  REQUIRE(patches.size() == functions.size());
  for (const CodePatch& patch : patches) {
    CHECK(patch.bytes.size() == 12);
    CHECK(word_at(patch.bytes, 2) == 0x7000000 + patch.offset);
  }
  for (const CodePatch& patch : redirect_vdso(there, {}, 0)) CHECK(patch.bytes.size() == 8);
}

TEST_CASE("the XSAVE area is translated component by component") {
  const image::Host there = host_with({{2, 576, 256}});
  const image::Host here = host_with({{2, 640, 256}, {5, 896, 64}});
  const image::XstateArea area = image::translate_xstate(avx_thread(there), there, here);
  CHECK(area.components == 7);
  CHECK(area.bytes.size() == 640 + 256);
  CHECK(area.bytes[640] == std::byte{0xab});
  CHECK(word_at(area.bytes, 512) == 6);
  CHECK((word_at(area.bytes, 24) & 0xffffffff) == 0x1f80);
  CHECK_FALSE(image::holds_amx_tiles(area));

  const image::XstateArea less = image::translate_xstate(avx_thread(there), there, host_with({}));
  CHECK(less.components == 3);
  CHECK(less.bytes.size() == 576);

  image::Thread cut = avx_thread(there);
  cut.xstate.resize(700);
  CHECK_THROWS_AS(image::translate_xstate(cut, there, here), Refusal);
}

TEST_CASE("a signal frame fits its room and is aligned") {
  const image::Host host = host_with({{2, 576, 256}});
  const image::Thread thread = avx_thread(host);
  const image::XstateArea area = image::translate_xstate(thread, host, host);
  for (uint64_t top = 0x10000; top < 0x10080; ++top) {
    const image::SignalFrame frame = image::build_signal_frame(thread, area, top);
    CHECK(frame.address >= top - image::signal_frame_room(area));
    CHECK(frame.address + frame.bytes.size() <= top);
    CHECK(frame.stack_pointer == frame.address + 8);
    const uint64_t state = word_at(frame.bytes, 8 + 40 + 184);  // ucontext.uc_mcontext.fpstate
    CHECK(state % 64 == 0);
    CHECK(word_at(frame.bytes, state - frame.address + 512) == 6);
  }
  image::Thread wrong = thread;
  wrong.registers.resize(10);
  CHECK_THROWS_AS(image::build_signal_frame(wrong, area, 0x10000), Refusal);
}

namespace {

Bytes name4(const char* address, uint16_t port) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(port);
  ::inet_pton(AF_INET, address, &name.sin_addr);
  const auto* const start = reinterpret_cast<const std::byte*>(&name);
  return {start, start + sizeof name};
}

Bytes name6(const char* address, uint16_t port, uint32_t scope = 0) {
  sockaddr_in6 name{};
  name.sin6_family = AF_INET6;
  name.sin6_port = htons(port);
  name.sin6_scope_id = scope;
  ::inet_pton(AF_INET6, address, &name.sin6_addr);
  const auto* const start = reinterpret_cast<const std::byte*>(&name);
  return {start, start + sizeof name};
}

}  // namespace

TEST_CASE("an address is the same in another family") {
  CHECK(in_family(name4("10.0.0.1", 80), AF_INET6) == name6("::ffff:10.0.0.1", 80));
  CHECK(in_family(name6("::ffff:10.0.0.1", 80), AF_INET) == name4("10.0.0.1", 80));
  CHECK(in_family(name4("10.0.0.1", 80), AF_INET) == name4("10.0.0.1", 80));
  CHECK(in_family(name6("fe80::1", 80), AF_INET).empty());
  CHECK(same_endpoint(name4("10.0.0.1", 80), name6("::ffff:10.0.0.1", 80)));
  CHECK(same_endpoint(name6("fe80::1", 80, 2), name6("fe80::1", 80, 3)));
  CHECK_FALSE(same_endpoint(name4("10.0.0.1", 80), name4("10.0.0.1", 81)));
  CHECK_FALSE(same_endpoint(name4("10.0.0.1", 80), name6("::1", 80)));
}

TEST_CASE("loopback stands in for an address that isn't here") {
  CHECK(loopback_name(name4("10.0.0.1", 80)) == name4("127.0.0.1", 0));
  CHECK(loopback_name(name6("::ffff:10.0.0.1", 80)) == name6("::ffff:127.0.0.1", 0));
  CHECK(loopback_name(name6("fe80::1", 80, 2)) == name6("::1", 0));
  Bytes name = loopback_name(name6("fe80::1", 80));
  set_port(name, htons(7));
  CHECK(name == name6("::1", 7));
  CHECK(is_any_address(name4("0.0.0.0", 80)));
  CHECK(is_any_address(name6("::", 80)));
  CHECK(is_any_address(name6("::ffff:0.0.0.0", 80)));
  CHECK_FALSE(is_any_address(name4("127.0.0.1", 0)));
}
