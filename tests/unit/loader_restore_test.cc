// Restores processes made by hand, and looks at what they do.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "image/files.h"
#include "loader/vdso_x86_64.h"
#include "loader_tiny.h"

using namespace rfork;
using loader::Options;
using loader::PidMode;
using tiny::Code;
using tiny::kData;

namespace {

/// A folder that goes when the test ends.
struct Folder {
  Folder() {
    char name[] = "/tmp/rfork-loader-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw_errno("mkdtemp");
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  std::string path;
};

Bytes text_bytes(const std::string& text) {
  const auto bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

/// Lines of maps without those of the kernel.
std::vector<Range> ranges_of(pid_t pid) {
  std::istringstream lines(read_file("/proc/" + std::to_string(pid) + "/maps"));
  std::vector<Range> ranges;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("[v") != std::string::npos) continue;
    const uint64_t start = std::stoull(line, nullptr, 16);
    ranges.push_back({start, std::stoull(line.substr(line.find('-') + 1), nullptr, 16)});
  }
  return ranges;
}

char state_of(pid_t pid) {
  const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
  return stat.at(stat.rfind(')') + 2);
}

template <typename Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no refusal";
}

Code pause_for_ever() {
  return Code().system_call(34).bytes({0xeb, 0xf2});
}

}  // namespace

TEST_CASE("a process of one page runs, writes and ends") {
  auto program = tiny::program(Code().system_call(1, {1, kData, 6}).exit_group(7));
  program.fill(kData, text_bytes("hello\n"));
  const int32_t old_pid = program.process().pid;
  const PidMode mode = GENERATE(PidMode::automatic, PidMode::fresh);
  Options options;
  options.pid_mode = mode;
  const auto outcome = tiny::run(program, options);
  CHECK_FALSE(outcome.end.signalled);
  CHECK(outcome.end.code == 7);
  CHECK(outcome.output == "hello\n");
  if (mode == PidMode::fresh) CHECK(outcome.inner_pid != old_pid);
}

TEST_CASE("a pid that is taken is kept in a pid namespace") {
  auto program =
      tiny::program(Code().system_call(39).bytes({0x89, 0xc7, 0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05}));
  program.process().pid = program.process().threads[0].tid = ::getpid();
  Options options;
  options.pid_mode = PidMode::keep;
  try {
    const auto outcome = tiny::run(program, options);
    CHECK(outcome.inner_pid == ::getpid());
    CHECK(outcome.pid != ::getpid());
    CHECK(outcome.end.code == (::getpid() & 0xff));
  } catch (const Refusal& refused) {
    WARN("no pid namespace here: " << refused.what());
  }
}

TEST_CASE("a signal that ends the child is told, through an init too") {
  auto program = tiny::program(Code().bytes({0x0f, 0x0b}));  // ud2
  if (GENERATE(false, true)) program.process().pid = program.process().threads[0].tid = ::getpid();
  program.process().limits[RLIMIT_CORE] = {0, 0};
  const auto outcome = tiny::run(program);
  CHECK(outcome.end.signalled);
  CHECK(outcome.end.code == SIGILL);
}

TEST_CASE("threads start where they were") {
  Code code;
  code.await(kData, 2).exit_group_with(kData + 4);
  const uint64_t other = code.here();
  code.increment(kData).system_call(60, {0});
  auto program = tiny::program(code);
  Bytes data(4096);
  data[4] = std::byte{42};
  program.fill(kData, data);
  const int32_t pid = program.process().pid;
  program.thread(pid + 1, other, tiny::kStackEnd - 0x4000);
  program.thread(pid + 2, other, tiny::kStackEnd - 0x8000);
  Options options;
  options.pid_mode = GENERATE(PidMode::automatic, PidMode::fresh);
  CHECK(tiny::run(program, options).end.code == 42);
}

TEST_CASE("a thread without room for a signal frame starts all the same") {
  auto program = tiny::program(Code().exit_group(9));
  program.process().threads.clear();
  program.thread(program.process().pid, tiny::kCode, tiny::kCode + 0x800);  // a stack that is code
  CHECK(tiny::run(program).end.code == 9);
}

TEST_CASE("nothing of the restore remains mapped") {
  auto program = tiny::program(pause_for_ever());
  program.map(0x10000000, 0x4000, PROT_NONE);
  program.map(0x20000000, 0x2000, PROT_READ);
  program.fill(0x20000000, text_bytes("read-only"));
  std::vector<Range> expected;
  for (const auto& mapping : program.process().mappings) expected.push_back(mapping.range);
  tiny::Run run(program);
  run.go();
  const auto found = ranges_of(run.pid());
  const std::string descriptors = std::to_string(std::distance(
      std::filesystem::directory_iterator("/proc/" + std::to_string(run.pid()) + "/fd"), {}));
  ::kill(run.pid(), SIGKILL);
  CHECK(run.wait().end.code == SIGKILL);
  CHECK(found == expected);
  CHECK(descriptors == "3");
}

TEST_CASE("the vDSO is there at its old address: the kernel's own, or the old one patched") {
  Bytes contents = loader::kernel_vdso().code;
  const bool altered = GENERATE(false, true);
  CAPTURE(altered);
  if (altered) contents[*loader::elf_end(contents) - 1] ^= std::byte{0xff};  // in a section header
  const uint64_t time_offset = loader::vdso_functions(contents).at("__vdso_time");
  Code code;
  code.call(0x7fff00010000 + time_offset).bytes({0x49, 0x89, 0xc4});  // mov %rax, %r12
  code.system_call(201, {0}).bytes(
      {0x4c, 0x29, 0xe0, 0x48, 0x83, 0xf8, 0x01});               // sub %r12, %rax; cmp $1, %rax
  code.bytes({0x40, 0x0f, 0x97, 0xc7, 0x40, 0x0f, 0xb6, 0xff});  // seta %dil; movzbl %dil, %edi
  code.bytes({0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05});
  auto program = tiny::program(code);
  REQUIRE(tiny::add_vdso(program, contents) == 0x7fff00010000);
  const auto outcome = tiny::run(program);
  CHECK_FALSE(outcome.end.signalled);
  CHECK(outcome.end.code == 0);
}

TEST_CASE("shared anonymous memory is shared anonymous memory") {
  auto program = tiny::program(Code().exit_group_with(0x30001000));
  image::Object object;
  object.id = 1;
  object.name = "/dev/zero";
  object.size = 0x3000;
  program.snapshot.objects.push_back(object);
  auto& mapping = program.map(0x30001000, 0x1000, PROT_READ);
  mapping.kind = image::Mapping::Kind::object;
  mapping.backing = 1;
  mapping.shared = true;
  mapping.offset = 0x1000;
  Bytes bytes(0x3000);
  bytes[0x1000] = std::byte{33};
  program.objects[1] = bytes;
  CHECK(tiny::run(program).end.code == 33);
}

TEST_CASE("a stopped process comes back stopped") {
  auto program = tiny::program(Code().exit_group(5));
  program.process().stop_signal = SIGTSTP;
  Options options;
  options.pid_mode = PidMode::fresh;  // without an init, whose child's stop only it would see
  tiny::Run run(program, options);
  run.go();
  int status = 0;
  REQUIRE(::waitpid(run.restore().wait_pid(), &status, WUNTRACED) == run.pid());
  CHECK(WIFSTOPPED(status));
  CHECK(state_of(run.pid()) == 'T');
  ::kill(run.pid(), SIGCONT);
  CHECK(run.wait().end.code == 5);
}

TEST_CASE("clocks go on where they were, as far as a time namespace can be had") {
  // clock_gettime(CLOCK_MONOTONIC, kData); exit_group(seconds in kData)
  auto program = tiny::program(Code().system_call(228, {1, kData}).exit_group_with(kData));
  program.snapshot.monotonic_ns = 100'000'000'000;
  program.snapshot.boottime_ns = 200'000'000'000;
  Options options;
  options.pid_mode = GENERATE(PidMode::automatic, PidMode::fresh);
  const auto outcome = tiny::run(program, options);
  if (outcome.warnings.empty()) {
    CHECK(outcome.end.code >= 100);
    CHECK(outcome.end.code < 110);
  } else {
    CHECK(outcome.warnings[0].find("CLOCK_MONOTONIC jumps") == 0);
  }
}

TEST_CASE("a signal sent to the init reaches the child") {
  auto program = tiny::program(pause_for_ever());
  program.process().pid = program.process().threads[0].tid = ::getpid();
  tiny::Run run(program);
  run.go();
  ::kill(run.restore().wait_pid(), SIGTERM);
  const auto outcome = run.wait();
  CHECK(outcome.end.signalled);
  CHECK(outcome.end.code == SIGTERM);
}

TEST_CASE("a pending signal and its action come back") {
  Code code;
  code.system_call(34).exit_group(3);  // pause, ended by the handler
  const uint64_t handler = code.here();
  code.exit_group(11);
  auto program = tiny::program(code);
  program.process().actions[SIGUSR1 - 1] = {SIGUSR1, handler, 0x04000000 /* SA_RESTORER */, handler,
                                            0};
  image::PendingSignal signal{};
  const int32_t values[] = {SIGUSR1, 0, SI_USER};
  std::memcpy(signal.data(), values, sizeof values);
  if (GENERATE(true, false)) {
    program.process().pending.push_back(signal);
  } else {
    program.process().threads[0].pending.push_back(signal);
  }
  CHECK(tiny::run(program).end.code == 11);
}

TEST_CASE("a child that isn't let go is ended, and its files go") {
  const Folder folder;
  auto program = tiny::program(Code().exit_group(0));
  image::File file;
  file.id = 2;
  file.path = folder / "new/log";
  file.size = 5;
  file.mode = 0100640;
  program.snapshot.files.push_back(file);
  image::Object object;
  object.id = 1;
  object.kind = image::Object::Kind::file;
  object.name = file.path;
  object.size = 5;
  object.mode = file.mode;
  object.file = 2;
  program.snapshot.objects.push_back(object);
  program.objects[1] = text_bytes("12345");
  auto& description = program.describe(3, image::Description::Kind::regular);
  description.path = file.path;
  description.file = 2;
  description.flags = O_RDWR;
  description.offset = 3;

  SECTION("ended") {
    pid_t pid = 0;
    {
      tiny::Run run(program);
      pid = run.pid();
      CHECK(::access(("/proc/" + std::to_string(pid)).c_str(), F_OK) == 0);
      CHECK(::access(file.path.c_str(), F_OK) != 0);
    }
    CHECK(::access(("/proc/" + std::to_string(pid)).c_str(), F_OK) != 0);
    CHECK(::access((folder / "new").c_str(), F_OK) != 0);
  }
  SECTION("let go: the file is created, and open at its offset") {
    program.fill(kData, text_bytes("x"));
    program.fill(tiny::kCode, Code().system_call(1, {3, kData, 1}).exit_group(0).get());
    const auto outcome = tiny::run(program);
    CHECK(outcome.end.code == 0);
    CHECK(read_file(file.path) == "123x5");
    struct stat status;
    REQUIRE(::stat(file.path.c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0640);
    CHECK(std::ranges::count(outcome.warnings, "created directory " + (folder / "new")) == 1);
  }
  SECTION("refused where another file has the name, unless it may be replaced") {
    ::mkdir((folder / "new").c_str(), 0755);
    write_full(open_or_throw(file.path, O_CREAT | O_WRONLY, 0600).get(), as_bytes("other contents"),
               "file");
    CHECK(refusal([&] { tiny::run(program); }) ==
          file.path +
              " exists here with other contents: 14 bytes instead of 5 bytes; "
              "--overwrite-files replaces it by the image's, --changed-files takes it as it is");
    CHECK(read_file(file.path) == "other contents");
    Options options;
    options.overwrite_files = true;
    CHECK(tiny::run(program, options).end.code == 0);
    CHECK(read_file(file.path) == "12345");
  }
}

TEST_CASE("files that aren't as they were are refused by name") {
  const Folder folder;
  auto program = tiny::program(Code().exit_group(0));
  const std::string path = folder / "data";
  auto& description = program.describe(5, image::Description::Kind::regular);
  description.path = path;
  description.file = 2;
  image::File file;
  file.id = 2;
  file.path = path;
  file.size = 9;
  SECTION("missing") {
    program.snapshot.files.push_back(file);
    CHECK(refusal([&] { tiny::run(program); }) ==
          "the open file " + path +
              " can't be opened here: No such file or directory; "
              "copy it here, or write the image without --thin");
  }
  SECTION("cut") {
    UniqueFd fd = open_or_throw(path, O_CREAT | O_RDWR, 0600);
    write_full(fd.get(), as_bytes("123456789"), path);
    file = image::identify(fd.get(), path);
    file.id = 2;
    program.snapshot.files.push_back(file);
    CHECK(tiny::run(program).end.code == 0);
    REQUIRE(::ftruncate(fd.get(), 4) == 0);
    CHECK(refusal([&] { tiny::run(program); }) ==
          "the open file " + path +
              " was cut from 9 to 4 bytes since the capture; "
              "--changed-files goes on with it as it is");
    Options options;
    options.changed_files = true;
    const auto outcome = tiny::run(program, options);
    CHECK(outcome.end.code == 0);
    CHECK(std::ranges::count(
              outcome.warnings,
              "the open file " + path + " was cut from 9 to 4 bytes since the capture") == 1);
  }
  SECTION("another device") {
    description.kind = image::Description::Kind::device;
    description.file.reset();
    description.path = "/dev/zero";
    CHECK(tiny::run(program).end.code == 0);
    program.snapshot.descriptions.back().path = "/dev/null/nothing";
    CHECK(refusal([&] { tiny::run(program); }) ==
          "the device /dev/null/nothing isn't here: Not a directory");
  }
}

TEST_CASE("a step that fails is named") {
  auto program = tiny::program(Code().exit_group(0));
  program.map(0x100000000, 1ull << 46, PROT_READ | PROT_WRITE);
  CHECK(refusal([&] { tiny::run(program); }) ==
        "mmap 0x100000000-0x400100000000: Cannot allocate memory");
}

TEST_CASE("a host of another architecture is refused") {
  auto program = tiny::program(Code().exit_group(0));
  program.snapshot.host.cpu_features.push_back("zzz-no-such-feature");
  CHECK(refusal([&] { tiny::run(program); }).find("zzz-no-such-feature") != std::string::npos);
}
