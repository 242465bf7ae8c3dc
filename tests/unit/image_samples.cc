#include "image_samples.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/user.h>

#include <cstring>
#include <random>

#include "image/elf_layout.h"

namespace rfork::image::samples {

namespace {

Host host() {
  Host host;
  host.name = "origin";
  host.architecture = "x86_64";
  host.kernel = "6.1.0";
  host.boot_id = "00000000-0000-4000-8000-000000000000";
  host.page_size = 4096;
  host.address_limit = (uint64_t{1} << 47) - 4096;
  host.cpu_features = {"avx", "avx2", "sse4_2"};
  host.cpu_hints = {"erms"};
  host.xcr0 = 7;
  host.xstate = {{2, 576, 256}};
  host.abilities = {"mm_map", "rseq"};
  return host;
}

/// An XSAVE area as ptrace gives it: x87, SSE and AVX in use, XCR0 among the software's bytes.
Bytes xstate(uint32_t seed) {
  Bytes area = noise(576 + 256, seed);
  std::fill(area.begin() + 512, area.begin() + 576, std::byte{0});
  area[512] = std::byte{7};
  const uint64_t xcr0 = 7;
  std::memcpy(area.data() + 464, &xcr0, sizeof xcr0);
  return area;
}

Thread thread(int32_t tid, const char* name) {
  Thread thread;
  thread.tid = tid;
  thread.name = name;
  const auto seed = static_cast<uint32_t>(tid);
  thread.registers = noise(sizeof(user_regs_struct), seed);
  thread.floating_point = noise(sizeof(user_fpregs_struct), seed + 1);
  thread.xstate = xstate(seed + 2);
  return thread;
}

PendingSignal pending(int32_t signal) {
  PendingSignal info{};
  std::memcpy(info.data(), &signal, sizeof signal);
  info[100] = std::byte{42};
  return info;
}

Mapping mapping(uint64_t start, uint64_t pages, uint32_t protection, std::string name = "") {
  Mapping mapping;
  mapping.range = {start, start + pages * kPageSize};
  mapping.protection = protection;
  mapping.name = std::move(name);
  return mapping;
}

Mapping backed(Mapping mapping, Mapping::Kind kind, uint32_t id, uint64_t offset, bool shared) {
  mapping.kind = kind;
  mapping.backing = id;
  mapping.offset = offset;
  mapping.shared = shared;
  return mapping;
}

File file(uint32_t id, const char* path, uint64_t size) {
  return {id, path,     size, S_IFREG | 0755, 0x801, 4711 + id, 1'700'000'000'000'000'001,
          17, "c0ffee", ""};
}

Process process(int32_t pid, const char* name) {
  Process process;
  process.pid = pid;
  process.ppid = 1;
  process.pgid = process.sid = pid;
  process.name = name;
  process.command_line = {name, "--flag", ""};
  process.executable = 1;
  process.cwd = "/home/somebody";
  process.root = "/";
  process.auxv = noise(64, 5);
  for (int32_t signal = 1; signal <= 64; ++signal) process.actions.push_back({signal});
  process.threads = {thread(pid, name)};
  return process;
}

Process rich_process() {
  constexpr uint32_t kRw = PROT_READ | PROT_WRITE;
  Process first = process(4242, "worker");
  first.umask = 077;
  first.personality = 0x0040000;
  first.dumpable = false;
  first.no_new_privs = true;
  first.oom_score_adj = -17;
  first.start_time_ns = 123456789;
  first.stop_signal = 19;
  first.credentials = {1000,    1001,       1002, 1003, 100, 101, 102, 103,
                       {4, 24}, "somebody", 1,    2,    3,   4,   5};
  for (uint64_t i = 0; i < first.limits.size(); ++i) first.limits[i] = {i, i == 3 ? ~0ull : i + 1};
  first.timers = {{{1, 2}, {3, 4}, {5, 6}}};
  first.layout = {0x400000,       0x401000,       0x402000,       0x403000,
                  0x500000,       0x502000,       0x7ffe00003000, 0x7ffe00003100,
                  0x7ffe00003200, 0x7ffe00003200, 0x7ffe00003300};
  first.actions[9] = {10, 0x400100, 0x14000004, 0x400200, 0xffff};
  first.pending = {pending(10)};
  first.patches = {{0x500010, noise(16, 3)}};
  Thread second = thread(4243, "worker/1");
  second.signal_mask = 0x8000000000000001;
  second.alt_stack = {0x500000, 0, 8192};
  second.robust_list = 0x500020;
  second.robust_list_size = 24;
  second.rseq = {0x500100, 32, 0x53053053, 1};
  second.clear_child_tid = 0x500200;
  second.pending = {pending(12), pending(34)};
  second.nice = -5;
  first.threads.push_back(second);

  using Kind = Mapping::Kind;
  Mapping heap = mapping(0x500000, 4, kRw, "[heap]");
  heap.advice = Mapping::dont_dump | Mapping::lock_on_fault;
  heap.no_reserve = true;
  Mapping stack = mapping(0x7ffe00000000, 4, kRw, "[stack]");
  stack.grows_down = true;
  Mapping huge = mapping(0x40000000, 1024, kRw);
  huge.huge_page_size = 2u << 20;
  Mapping read_only =
      backed(mapping(0x7f0000010000, 4, PROT_READ, "/memfd:shared"), Kind::object, 2, 0, true);
  read_only.may_write = false;
  Mapping vvar = mapping(0x7ffe00010000, 4, PROT_READ, "[vvar]");
  vvar.kind = Kind::vvar;
  Mapping vdso = mapping(0x7ffe00014000, 2, PROT_READ | PROT_EXEC, "[vdso]");
  vdso.kind = Kind::vdso;
  first.mappings = {backed(mapping(0x400000, 4, PROT_READ | PROT_EXEC, "/usr/bin/worker"),
                           Kind::file, 1, 0, false),
                    heap,
                    huge,
                    read_only,
                    stack,
                    vvar,
                    vdso};
  first.descriptors = {{0, 1, false}, {5, 2, true}, {6, 2, false}, {7, 3, false}};
  return first;
}

}  // namespace

Bytes noise(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

Snapshot small_snapshot() {
  Snapshot snapshot;
  snapshot.host = host();
  snapshot.files = {file(1, "/usr/bin/true", 8192)};
  snapshot.processes = {process(77, "true")};
  snapshot.processes[0].mappings = {mapping(0x10000, 1, PROT_READ | PROT_WRITE)};
  return snapshot;
}

std::vector<DataRun> small_runs() {
  return {{DataRun::Target::memory, 0, {0x10000, 0x11000}}};
}

Snapshot rich_snapshot() {
  Snapshot snapshot;
  snapshot.host = host();
  snapshot.realtime_ns = 1'700'000'000'123'456'789;
  snapshot.monotonic_ns = 987654321;
  snapshot.boottime_ns = 987654322;
  snapshot.moved = true;
  snapshot.thin = true;
  snapshot.files = {file(1, "/usr/bin/worker", 16384), file(9, "/data/\xff not UTF-8", 5)};
  snapshot.files[1].digest = "00112233445566778899aabbccddeeff";
  using Kind = Object::Kind;
  snapshot.objects = {{2, Kind::memfd, "/memfd:shared", 4 * kPageSize, 0777, 0xf, 0, {}},
                      {3, Kind::deleted_file, "/tmp/gone", 5000, 0600, 0, 0, {}},
                      {4, Kind::file_pages, "/usr/bin/worker", 16384, 0755, 0, 0, 1},
                      {5, Kind::file, "/data/\xff not UTF-8", 5, 0644, 0, 0, 9}};
  snapshot.descriptions = {
      {1, Description::Kind::stdio, "pipe:[1234]", 0, 0, {}, {}},
      {2, Description::Kind::regular, "/data/\xff not UTF-8", O_RDWR | O_APPEND, 5, 9, {}},
      {3, Description::Kind::contents, "/tmp/gone", O_RDWR, 4999, {}, 3},
      {4, Description::Kind::device, "/dev/null", O_RDWR, 0, {}, {}},
      {5, Description::Kind::directory, "/", O_RDONLY, 0, {}, {}}};
  Process second = process(5000, "helper");
  second.executable = 3;
  second.executable_deleted = true;
  second.mappings = {
      mapping(0x400000, 2, PROT_READ | PROT_WRITE),
      backed(mapping(0x600000, 2, PROT_READ, "/tmp/gone"), Mapping::Kind::object, 3, 0, true)};
  second.descriptors = {{0, 4, false}, {3, 2, false}, {4, 5, false}};
  snapshot.processes = {rich_process(), second};
  return snapshot;
}

std::vector<DataRun> rich_runs() {
  using Target = DataRun::Target;
  return {{Target::object, 4, {0x0, 0x3000}},
          {Target::memory, 0, {0x501000, 0x503000}},
          {Target::object, 3, {0x1000, 5000}},
          {Target::memory, 0, {0x401000, 0x402000}},
          {Target::memory, 1, {0x400000, 0x402000}},
          {Target::object, 2, {0x1000, 0x2000}},
          {Target::object, 5, {0, 5}},
          {Target::object, 2, {0x3000, 0x4000}},
          {Target::memory, 0, {0x7ffe00014000, 0x7ffe00016000}}};
}

Bytes image_of(const Snapshot& snapshot, const std::vector<DataRun>& runs) {
  Encoder encoder(snapshot, runs);
  const auto metadata = encoder.metadata();
  Bytes image(metadata.begin(), metadata.end());
  const Bytes data = noise(encoder.data_size(), 99);
  encoder.absorb(data);
  image.insert(image.end(), data.begin(), data.end());
  const Bytes trailer = encoder.trailer();
  image.insert(image.end(), trailer.begin(), trailer.end());
  return image;
}

Metadata read_back(std::span<const std::byte> image) {
  const uint64_t size = metadata_size(image.first(std::min(image.size(), kPrefixSize)));
  Metadata metadata = decode_metadata(image.first(std::min<uint64_t>(image.size(), size)));
  if (image.size() > metadata.total_size) throw Refusal(Failure::bad_image, "something follows");
  Verifier verifier(metadata);
  const auto rest = image.subspan(size);
  const auto data = rest.first(std::min<uint64_t>(rest.size(), metadata.data_size));
  // In pieces of odd sizes, as they come from a connection.
  for (size_t i = 0; i < data.size(); i += 1009) {
    verifier.absorb(data.subspan(i, std::min<size_t>(1009, data.size() - i)));
  }
  verifier.check(rest.subspan(data.size()));
  return metadata;
}

std::string refusal_of(std::span<const std::byte> image) {
  try {
    read_back(image);
  } catch (const Refusal& refusal) {
    if (refusal.failure() == Failure::bad_image) return refusal.reasons().front().what;
  }
  throw std::logic_error("a bad image was not refused");
}

void reseal(Bytes& image) {
  const uint64_t prefix_digest = short_digest_of(std::span(image).first(kPrefixDigestOffset));
  std::memcpy(image.data() + kPrefixDigestOffset, &prefix_digest, sizeof prefix_digest);
  uint64_t size;
  std::memcpy(&size, image.data() + sizeof(Elf64_Ehdr) + offsetof(Elf64_Shdr, sh_addr),
              sizeof size);
  const Digest digest = digest_of(std::span(image).first(size - sizeof(Digest)));
  std::memcpy(image.data() + size - sizeof(Digest), digest.data(), sizeof(Digest));
}

}  // namespace rfork::image::samples
