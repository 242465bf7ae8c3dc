// What is written comes back, whatever is in it and however much.
#include <fcntl.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <set>

#include "image/elf_layout.h"
#include "image/json.h"
#include "image_samples.h"

using namespace rfork;
using namespace rfork::image;
using nlohmann::json;

namespace {

std::vector<Elf64_Phdr> headers_of(const Encoder& encoder) {
  const auto bytes = encoder.metadata();
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  std::vector<Elf64_Phdr> headers(header.e_phnum);
  std::memcpy(headers.data(), bytes.data() + header.e_phoff, headers.size() * sizeof headers[0]);
  return headers;
}

}  // namespace

TEST_CASE("a small image comes back") {
  const Bytes image = samples::image_of(samples::small_snapshot(), samples::small_runs());
  const Metadata metadata = samples::read_back(image);
  CHECK(json(metadata.snapshot) == json(samples::small_snapshot()));
  CHECK(metadata.runs == samples::small_runs());
  CHECK(metadata.total_size == image.size());
  CHECK(metadata.data_offset % kPageSize == 0);
}

TEST_CASE("every field of a rich image comes back") {
  const Bytes image = samples::image_of(samples::rich_snapshot(), samples::rich_runs());
  const Metadata metadata = samples::read_back(image);
  CHECK(json(metadata.snapshot) == json(samples::rich_snapshot()));
  CHECK(metadata.runs == samples::rich_runs());
}

TEST_CASE("an image without page data comes back") {
  const Bytes image = samples::image_of(samples::small_snapshot(), {});
  CHECK(samples::read_back(image).runs.empty());
}

TEST_CASE("page data of several blocks is verified whatever its pieces") {
  Snapshot snapshot = samples::small_snapshot();
  const uint64_t size = 3 * BlockDigests::kBlockSize + 5 * kPageSize;
  snapshot.processes[0].mappings[0].range.end = 0x10000 + size;
  const Bytes image =
      samples::image_of(snapshot, {{DataRun::Target::memory, 0, {0x10000, 0x10000 + size}}});
  const Metadata metadata = samples::read_back(image);
  CHECK(metadata.trailer_size == trailer_size_for(size));
}

TEST_CASE("70,000 runs need PN_XNUM and come back") {
  Snapshot snapshot = samples::small_snapshot();
  std::vector<DataRun> runs;
  constexpr uint64_t kRuns = 70'000;
  snapshot.processes[0].mappings[0].range.end = 0x10000 + 2 * kRuns * kPageSize;
  for (uint64_t i = 0; i < kRuns; ++i) {
    const uint64_t start = 0x10000 + 2 * (i ^ 1) * kPageSize;  // not in the order of addresses
    runs.push_back({DataRun::Target::memory, 0, {start, start + kPageSize}});
  }
  const Encoder encoder(snapshot, runs);
  Elf64_Ehdr header;
  std::memcpy(&header, encoder.metadata().data(), sizeof header);
  CHECK(header.e_phnum == PN_XNUM);
  const Metadata metadata = decode_metadata(encoder.metadata());
  CHECK(metadata.runs == runs);
  CHECK(metadata.data_size == kRuns * kPageSize);
}

TEST_CASE("lists that need several notes come back") {
  Snapshot snapshot = samples::small_snapshot();
  Process& process = snapshot.processes[0];
  const Mapping mapping = process.mappings[0];
  const Thread thread = process.threads[0];
  for (uint64_t i = 1; i < 2000; ++i) {
    process.mappings.push_back(mapping);
    process.mappings[i].range = {0x10000 + i * 8192, 0x10000 + i * 8192 + 4096};
    process.mappings[i].name = "[anon:" + std::to_string(i) + "]";
    process.threads.push_back(thread);
    process.threads[i].tid += static_cast<int32_t>(i);
    process.threads[i].signal_mask = i;
  }
  const Metadata metadata = samples::read_back(samples::image_of(snapshot, {}));
  CHECK(json(metadata.snapshot) == json(snapshot));
}

TEST_CASE("much that is queued comes back, in one description and in many") {
  Snapshot snapshot = samples::small_snapshot();
  const size_t sizes[] = {3u << 20, 3u << 20, 40u << 20, 1, 0, 5u << 20};
  for (uint32_t i = 0; i < std::size(sizes); ++i) {
    Description pipe{.id = 100 + i, .kind = Description::Kind::pipe};
    pipe.other = pipe.id;
    pipe.queued = {Bytes(sizes[i], static_cast<std::byte>(i))};
    snapshot.descriptions.push_back(pipe);
  }
  const Metadata metadata = samples::read_back(samples::image_of(snapshot, samples::small_runs()));
  REQUIRE(metadata.snapshot.descriptions.size() == snapshot.descriptions.size());
  for (size_t i = 0; i < snapshot.descriptions.size(); ++i) {
    CHECK(metadata.snapshot.descriptions[i].queued == snapshot.descriptions[i].queued);
  }
}

TEST_CASE("segments show debuggers the bytes of objects, under what is private") {
  const Encoder encoder(samples::rich_snapshot(), samples::rich_runs());
  std::set<std::pair<uint64_t, uint64_t>> aliases, loads;
  for (const Elf64_Phdr& header : headers_of(encoder)) {
    if (header.p_type != PT_LOAD || header.p_filesz == 0) continue;
    const uint64_t in_data = header.p_offset - encoder.metadata().size();
    ((header.p_flags & kFlagAlias) != 0 ? aliases : loads).insert({header.p_vaddr, in_data});
  }
  // The program's pages are in object 4 at 0; its second page is private.
  const std::set<std::pair<uint64_t, uint64_t>> expected{
      {0x400000, 0}, {0x402000, 0x2000}, {0x7f0000011000, 0x9000}, {0x7f0000013000, 0xb000}};
  CHECK(aliases == expected);
  CHECK(loads.count({0x401000, 0x6000}) == 1);
  CHECK(loads.size() == 3);
}

TEST_CASE("the encoder refuses runs that don't fit") {
  const Snapshot snapshot = samples::rich_snapshot();
  using Target = DataRun::Target;
  const auto encode = [&](std::vector<DataRun> runs) { Encoder encoder(snapshot, runs); };
  CHECK_THROWS_AS(encode({{Target::memory, 0, {0x1000, 0x2000}}}), std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::memory, 2, {0x400000, 0x401000}}}), std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::memory, 0, {0x400000, 0x400000}}}), std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::memory, 0, {0x400000, 0x400800}}}), std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::memory, 0, {0x400000, 0x405000}}}), std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::memory, 0, {0x7ffe00010000, 0x7ffe00011000}}}),
                  std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::object, 77, {0, 0x1000}}}), std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::object, 3, {0, 0x3000}}}), std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::object, 3, {0, 4999}}}), std::invalid_argument);
  CHECK_THROWS_AS(encode({{Target::memory, 0, {0x400000, 0x402000}},
                          {Target::memory, 0, {0x401000, 0x402000}}}),
                  std::invalid_argument);
}

TEST_CASE("the trailer wants all page data") {
  Encoder encoder(samples::small_snapshot(), samples::small_runs());
  encoder.absorb(samples::noise(100, 1));
  CHECK_THROWS_AS(encoder.trailer(), std::logic_error);
}

TEST_CASE("a connection that TCP_REPAIR is to make is one, with windows that fit") {
  const auto is_taken = [](const std::function<void(Socket&)>& change) {
    Snapshot snapshot = samples::rich_snapshot();
    Socket socket;
    socket.family = 2, socket.type = 1, socket.protocol = 6, socket.kept = socket.connected = true;
    socket.name = {std::byte{2}, std::byte{0}, std::byte{1}}, socket.peer = socket.name;
    socket.tcp = TcpConnection();
    change(socket);
    Description description{.id = 95, .kind = Description::Kind::socket};
    description.socket = socket;
    snapshot.descriptions.push_back(description);
    try {
      const Bytes image = samples::image_of(snapshot, samples::rich_runs());
      const std::string text(reinterpret_cast<const char*>(image.data()), image.size());
      samples::read_back(as_bytes(text));
      return true;
    } catch (const std::exception&) {
      return false;
    }
  };
  CHECK(is_taken([](Socket&) {}));
  CHECK_FALSE(is_taken([](Socket& one) { one.kept = false; }));
  CHECK_FALSE(is_taken([](Socket& one) { one.type = 2; }));
  CHECK_FALSE(is_taken([](Socket& one) { one.peer.clear(); }));
  CHECK_FALSE(is_taken([](Socket& one) { one.tcp->segment_size = 0; }));
  CHECK_FALSE(is_taken([](Socket& one) { one.tcp->send_scale = 15; }));
  CHECK_FALSE(is_taken([](Socket& one) { one.tcp->send_window = 1; }));
  CHECK_FALSE(is_taken([](Socket& one) { one.tcp->receive_window = UINT32_MAX; }));
}

TEST_CASE("what images of version 1 got later comes back too") {
  Snapshot snapshot = samples::rich_snapshot();
  Mapping& mapping = snapshot.processes[0].mappings.front();
  mapping.guards = {{mapping.range.start, mapping.range.start + 4096}};
  mapping.protection_key = 15;
  mapping.sealed = true;
  snapshot.drop_attributes = true;
  Process& process = snapshot.processes[0];
  process.protection_keys = 1u << 3 | 1u << 15;
  process.lock_future = 2;
  process.posix_timers = {{3, 1, 0, 0, 14, 0x1234567890abcdef, 0, 5, 7, 0},
                          {9, -2, 4243, 4, 35, 1, 4242, 0, 0, 8}};
  process.settings = {true, 3, 1, true, 0x15, 0x14};
  process.seccomp_filters = {{samples::noise(16, 7), true}, {samples::noise(8, 8), false}};
  process.credentials.securebits = 0x2f;
  Thread& thread = process.threads[0];
  thread.waits = true;
  thread.scheduling = {6, 1, 0, 10, 20, 30};
  thread.cpus = {0, 3, 200};
  thread.io_priority = 3 << 13;
  thread.settings = {50'000, 9, 2, 8, 4};
  thread.credentials = process.credentials;
  thread.no_new_privs = true;
  thread.seccomp_mode = 2;
  thread.seccomp_filters = {1, 0};
  thread.memory_policy = {3 | 1 << 15, {0, 2, 1023}};
  process.memory_policies = {{{0x1000, 0x3000}, {2, {1}}}, {{0x5000, 0x6000}, {4, {}}}};
  Object segment{
      .id = 95, .kind = Object::Kind::sysv_segment, .name = "/SYSV0000002a", .size = 8192};
  segment.segment = {5, -42, 4097, 0640, 1, 2, 3, 4, 4711, 1'700'000'000, true, true, 4026531839};
  snapshot.objects.push_back(segment);
  Description& relayed = snapshot.descriptions.front();
  relayed.locks = {{FileLock::Kind::posix, true, 5, 100},
                   {FileLock::Kind::flock, false, 0, 0},
                   {FileLock::Kind::lease, true, 0, 0}};
  relayed.relay = Description::RelayType::terminal;
  relayed.terminal_modes = samples::noise(44, 3);
  relayed.window_size = samples::noise(8, 4);
  relayed.owner_type = 1;
  relayed.owner = 4242;
  relayed.owner_signal = 35;
  Description events{.id = 90, .kind = Description::Kind::epoll};
  events.watches = {{4, 1, 0x1234567890abcdef}, {5, 1u << 30, 7}};
  events.timer = {1, 1, 5, 7, 9};
  events.count = UINT64_MAX - 1;
  events.semaphore = true;
  events.signal_mask = ~0ull;
  events.other = 90;
  events.capacity = 65536;
  events.queued = {samples::noise(3, 5), samples::noise(4, 6)};
  events.shut = 2;
  events.inotify = {{7, 0x84000fff, "/etc", 12, 5'000'000'001, std::nullopt},
                    {9, 2, "/x", 1, 0, 3}};
  events.fanotify = {
      0xc03,
      0x8000,
      {{0x440, 0x48000300, 0x20, "/etc", 12, -1, std::nullopt}, {0x200, 2, 0, "/", 0, 0, 3}}};
  events.mode = 0010644;
  events.removed = true;
  snapshot.processes[0].cwd_removed = true;
  snapshot.descriptions.push_back(events);
  Description open{.id = 91, .kind = Description::Kind::socket};
  Socket& socket = open.socket.emplace();
  socket.family = 10, socket.type = 2, socket.protocol = 17;
  socket.name = {std::byte{10}, std::byte{0}, std::byte{1}};
  socket.peer = {std::byte{10}, std::byte{0}, std::byte{2}};
  socket.interface = "eth0";
  socket.listening = socket.has_path = socket.peer_gone = socket.error = socket.connected = true;
  socket.backlog = 128;
  socket.pending = {90, 91};
  socket.mode = 0640, socket.uid = 7, socket.gid = 8;
  socket.options = {{"SO_SNDBUF", samples::noise(4, 7)}, {"TCP_CONGESTION", samples::noise(16, 8)}};
  socket.messages = {{samples::noise(5, 9), socket.name, samples::noise(12, 1), {90}}, {}};
  socket.memberships = {{"lo", samples::noise(128, 2), 3, false, {samples::noise(128, 4)}}};
  socket.groups = {1, 500};
  socket.filter = samples::noise(16, 5);
  socket.left = 4, socket.cookie = UINT64_MAX;
  socket.kept = true;
  snapshot.descriptions.push_back(open);
  Socket moves;
  moves.family = 2, moves.type = 1, moves.protocol = 6, moves.kept = moves.connected = true;
  moves.name = {std::byte{2}, std::byte{0}, std::byte{1}}, moves.peer = moves.name;
  moves.tcp = TcpConnection{UINT32_MAX,
                            7,
                            1460,
                            true,
                            true,
                            true,
                            7,
                            9,
                            4711,
                            5,
                            6,
                            7,
                            8,
                            9,
                            samples::noise(5, 1),
                            samples::noise(6, 2),
                            samples::noise(7, 3)};
  Description moving{.id = 95, .kind = Description::Kind::socket};
  moving.socket = moves;
  snapshot.descriptions.push_back(moving);
  snapshot.holder = {"rfork-held-00", 4711, 4026531840};
  Description master{.id = 92, .kind = Description::Kind::pseudo_terminal, .other = 92};
  master.terminal = PseudoTerminal{7, true, true, true, true, true, 3};
  snapshot.descriptions.push_back(master);
  const Bytes image = samples::image_of(snapshot, samples::rich_runs());
  const std::string text(reinterpret_cast<const char*>(image.data()), image.size());
  CHECK(json(samples::read_back(as_bytes(text)).snapshot) == json(snapshot));
}

// Never written again: `image_test "[.golden]"` writes the file of a new format version beside it.
TEST_CASE("an image of format version 1 stays readable") {
  std::ifstream in(RFORK_TEST_DATA "/golden/version-1.rfork", std::ios::binary);
  REQUIRE(in);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const Metadata metadata = samples::read_back(as_bytes(text));
  CHECK(json(metadata.snapshot) == json(samples::rich_snapshot()));
  CHECK(metadata.runs == samples::rich_runs());
}

TEST_CASE("write the golden image", "[.golden]") {
  const Bytes image = samples::image_of(samples::rich_snapshot(), samples::rich_runs());
  const std::string path =
      RFORK_TEST_DATA "/golden/version-" + std::to_string(kFormatVersion) + ".rfork";
  const UniqueFd fd = open_or_throw(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
  write_full(fd.get(), image, path);
}
