// Snapshots that don't hang together are refused, by the writer and by the reader.
#include "image/validate.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <functional>

#include "image/fanotify.h"
#include "image_samples.h"

using namespace rfork::image;
using Change = std::function<void(Snapshot&)>;

namespace {

Process& first(Snapshot& snapshot) {
  return snapshot.processes[0];
}

struct Case {
  const char* name;
  NoteType note;
  Change change;
};

const Case kProcessCases[] = {
    {"no process", NoteType::process, [](Snapshot& s) { s.processes.clear(); }},
    {"no thread", NoteType::threads, [](Snapshot& s) { first(s).threads.clear(); }},
    {"a policy with node 1024", NoteType::threads,
     [](Snapshot& s) {
       first(s).threads[0].memory_policy = {2, {1024}};
     }},
    {"a policy that is none", NoteType::process,
     [](Snapshot& s) {
       first(s).memory_policies = {{{0x1000, 0x2000}, {-1, {}}}};
     }},
    {"policies out of order", NoteType::process,
     [](Snapshot& s) {
       first(s).memory_policies = {{{0x3000, 0x4000}, {2, {0}}}, {{0x1000, 0x2000}, {2, {0}}}};
     }},
    {"tid 0", NoteType::threads, [](Snapshot& s) { first(s).threads[1].tid = 0; }},
    {"a tid twice", NoteType::threads, [](Snapshot& s) { first(s).threads[1].tid = 5000; }},
    {"not the leader first", NoteType::threads, [](Snapshot& s) { first(s).threads[0].tid = 1; }},
    {"a pid twice", NoteType::process,
     [](Snapshot& s) { s.processes[1].pid = s.processes[1].threads[0].tid = 4242; }},
    {"short registers", NoteType::threads,
     [](Snapshot& s) { first(s).threads[0].registers.resize(100); }},
    {"short floating point", NoteType::threads,
     [](Snapshot& s) { first(s).threads[0].floating_point.clear(); }},
    {"short xstate", NoteType::threads,
     [](Snapshot& s) { first(s).threads[0].xstate.resize(512); }},
    {"xstate without AVX", NoteType::threads,
     [](Snapshot& s) { first(s).threads[0].xstate.resize(800); }},
    {"xstate beyond XCR0", NoteType::threads,
     [](Snapshot& s) { first(s).threads[0].xstate[512] = std::byte{0x87}; }},
    {"xstate compacted", NoteType::threads,
     [](Snapshot& s) { first(s).threads[0].xstate[527] = std::byte{0x80}; }},
    {"a long thread name", NoteType::threads,
     [](Snapshot& s) { first(s).threads[0].name = "sixteen letters!"; }},
    {"a stack outside", NoteType::threads,
     [](Snapshot& s) { first(s).threads[1].alt_stack.size = ~0ull; }},
    {"63 actions", NoteType::process, [](Snapshot& s) { first(s).actions.pop_back(); }},
    {"action 65", NoteType::process, [](Snapshot& s) { first(s).actions[63].signal = 65; }},
    {"pending signal 65", NoteType::process,
     [](Snapshot& s) { first(s).pending[0][0] = std::byte{65}; }},
    {"stopped by signal -1", NoteType::process, [](Snapshot& s) { first(s).stop_signal = -1; }},
    {"relative cwd", NoteType::process, [](Snapshot& s) { first(s).cwd = "home"; }},
    {"root with NUL", NoteType::process, [](Snapshot& s) { first(s).root.push_back('\0'); }},
    {"umask", NoteType::process, [](Snapshot& s) { first(s).umask = 01000; }},
    {"unknown executable", NoteType::process, [](Snapshot& s) { first(s).executable = 2; }},
    {"soft above hard", NoteType::process,
     [](Snapshot& s) {
       first(s).limits[0] = {2, 1};
     }},
    {"auxv", NoteType::process, [](Snapshot& s) { first(s).auxv.resize(17); }},
    {"a patch nowhere", NoteType::process, [](Snapshot& s) { first(s).patches[0].address = 0; }},
    {"a patch that wraps", NoteType::process,
     [](Snapshot& s) { first(s).patches[0].address = ~0ull - 3; }},
    {"brk outside", NoteType::process, [](Snapshot& s) { first(s).layout.brk = ~0ull; }},
    {"descriptor -1", NoteType::descriptors, [](Snapshot& s) { first(s).descriptors[0].fd = -1; }},
    {"a descriptor twice", NoteType::descriptors,
     [](Snapshot& s) { first(s).descriptors[0].fd = 5; }},
    {"unknown description", NoteType::descriptors,
     [](Snapshot& s) { first(s).descriptors[0].description = 99; }},
};

const Case kMappingCases[] = {
    {"empty", NoteType::mappings, [](Snapshot& s) { first(s).mappings[1].range.end = 0x500000; }},
    {"off a page", NoteType::mappings, [](Snapshot& s) { first(s).mappings[1].range.end += 8; }},
    {"overlap", NoteType::mappings, [](Snapshot& s) { first(s).mappings[0].range.end = 0x501000; }},
    {"out of order", NoteType::mappings,
     [](Snapshot& s) { std::swap(first(s).mappings[0], first(s).mappings[1]); }},
    {"the kernel's half", NoteType::mappings,
     [](Snapshot& s) { first(s).mappings.back().range.end = ~0ull << 12; }},
    {"protection", NoteType::mappings, [](Snapshot& s) { first(s).mappings[1].protection = 8; }},
    {"advice", NoteType::mappings, [](Snapshot& s) { first(s).mappings[1].advice = 1u << 20; }},
    {"unknown file", NoteType::mappings, [](Snapshot& s) { first(s).mappings[0].backing = 2; }},
    {"unknown object", NoteType::mappings, [](Snapshot& s) { first(s).mappings[3].backing = 1; }},
    {"offset off a page", NoteType::mappings, [](Snapshot& s) { first(s).mappings[0].offset = 1; }},
    {"offset that wraps", NoteType::mappings,
     [](Snapshot& s) { first(s).mappings[0].offset = ~0ull << 12; }},
    {"shared without object", NoteType::mappings,
     [](Snapshot& s) { first(s).mappings[1].shared = true; }},
    {"huge pages", NoteType::mappings,
     [](Snapshot& s) { first(s).mappings[1].huge_page_size = 2u << 20; }},
    {"name with NUL", NoteType::mappings,
     [](Snapshot& s) { first(s).mappings[1].name.push_back('\0'); }},
};

/// Of a group that is valid but for what the case changes.
FanotifyMark& mark(Snapshot& snapshot) {
  FanotifyGroup& group = snapshot.descriptions[3].fanotify.emplace();
  snapshot.descriptions[3].kind = Description::Kind::fanotify;
  return group.marks.emplace_back(
      FanotifyMark{.flags = 0, .mask = FAN_MODIFY, .path = "/etc", .object = {}});
}

const Case kSharedCases[] = {
    {"page size", NoteType::host, [](Snapshot& s) { s.host.page_size = 4095; }},
    {"address limit", NoteType::host, [](Snapshot& s) { s.host.address_limit = ~0ull; }},
    {"xstate offset", NoteType::host, [](Snapshot& s) { s.host.xstate[0].offset = 1u << 31; }},
    {"xstate twice", NoteType::host,
     [](Snapshot& s) { s.host.xstate.push_back(s.host.xstate[0]); }},
    {"file id twice", NoteType::files, [](Snapshot& s) { s.files[1].id = 1; }},
    {"relative path", NoteType::files, [](Snapshot& s) { s.files[0].path = "usr"; }},
    {"path with NUL", NoteType::files, [](Snapshot& s) { s.files[0].path.push_back('\0'); }},
    {"object id twice", NoteType::objects, [](Snapshot& s) { s.objects[1].id = 2; }},
    {"object of unknown file", NoteType::objects, [](Snapshot& s) { s.objects[2].file = 77; }},
    {"object without its file", NoteType::objects, [](Snapshot& s) { s.objects[2].file.reset(); }},
    {"a segment without its facts", NoteType::objects,
     [](Snapshot& s) { s.objects[0].kind = Object::Kind::sysv_segment; }},
    {"a memfd with those of a segment", NoteType::objects,
     [](Snapshot& s) { s.objects[0].segment.emplace().size = 1; }},
    {"a segment larger than its pages", NoteType::objects,
     [](Snapshot& s) {
       s.objects[0].kind = Object::Kind::sysv_segment;
       s.objects[0].size = 4096;
       s.objects[0].segment.emplace().size = 4097;
     }},
    {"memfd with a file", NoteType::objects, [](Snapshot& s) { s.objects[0].file = 1; }},
    {"object size", NoteType::objects, [](Snapshot& s) { s.objects[0].size = ~0ull; }},
    {"description twice", NoteType::descriptions, [](Snapshot& s) { s.descriptions[0].id = 2; }},
    {"regular without file", NoteType::descriptions,
     [](Snapshot& s) { s.descriptions[1].file.reset(); }},
    {"contents without object", NoteType::descriptions,
     [](Snapshot& s) { s.descriptions[2].object.reset(); }},
    {"unknown object", NoteType::descriptions, [](Snapshot& s) { s.descriptions[2].object = 99; }},
    {"negative offset", NoteType::descriptions, [](Snapshot& s) { s.descriptions[1].offset = -1; }},
    {"device by relative path", NoteType::descriptions,
     [](Snapshot& s) { s.descriptions[3].path = "null"; }},
    {"a fanotify group without its facts", NoteType::descriptions,
     [](Snapshot& s) { s.descriptions[3].kind = Description::Kind::fanotify; }},
    {"a mark by relative path", NoteType::descriptions, [](Snapshot& s) { mark(s).path = "etc"; }},
    {"a mark of an unknown object", NoteType::descriptions,
     [](Snapshot& s) { mark(s).object = 99; }},
    {"a mark of a mount and a file system", NoteType::descriptions,
     [](Snapshot& s) { mark(s).flags = FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM; }},
    {"a mark that flushes", NoteType::descriptions,
     [](Snapshot& s) { mark(s).flags = FAN_MARK_FLUSH; }},
    {"a mark of no event", NoteType::descriptions, [](Snapshot& s) { mark(s).mask = 0; }},
    {"a mark that asks for permission", NoteType::descriptions,
     [](Snapshot& s) { mark(s).mask |= FAN_OPEN_PERM; }},
    {"a holder without a name", NoteType::snapshot, [](Snapshot& s) { s.holder.emplace(); }},
    {"a holder whose name is too long", NoteType::snapshot,
     [](Snapshot& s) { s.holder.emplace().name.assign(101, 'x'); }},
};

void check(std::span<const Case> cases) {
  for (const Case& item : cases) {
    INFO(item.name);
    Snapshot snapshot = samples::rich_snapshot();
    item.change(snapshot);
    try {
      validate(snapshot);
      FAIL_CHECK("was taken");
    } catch (const Invalid& error) {
      CHECK(std::string(name_of(error.note())) == name_of(item.note));
    }
    CHECK_THROWS_AS(Encoder(snapshot, {}), std::invalid_argument);
  }
}

}  // namespace

TEST_CASE("a whole snapshot is valid") {
  CHECK_NOTHROW(validate(samples::rich_snapshot()));
}
TEST_CASE("wrong processes are refused") {
  check(kProcessCases);
}
TEST_CASE("wrong mappings are refused") {
  check(kMappingCases);
}
TEST_CASE("wrong files, objects, descriptions and hosts are refused") {
  check(kSharedCases);
}

TEST_CASE("the decoder validates: an image that nobody of us would write is refused") {
  // A note's CBOR is edited in place: the fd of the only descriptor 7 becomes that of another.
  rfork::Bytes image = samples::image_of(samples::rich_snapshot(), samples::rich_runs());
  const std::string_view text(reinterpret_cast<const char*>(image.data()), image.size());
  // Rows of the descriptors note: [close_on_exec, description, fd].
  const size_t row = text.find("\x83\xf4\x03\x07");
  REQUIRE(row != std::string_view::npos);
  image[row + 3] = std::byte{5};
  samples::reseal(image);
  CHECK_THAT(samples::refusal_of(image), Catch::Matchers::Contains("'descriptors' at byte") &&
                                             Catch::Matchers::Contains("twice"));
}
