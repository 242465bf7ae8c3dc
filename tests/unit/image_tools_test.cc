// Readers of core files that nobody here wrote open an image without complaint; ImageReader reads
// it from a pipe.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <thread>

#include "base/io.h"
#include "image/json.h"
#include "image/read_image.h"
#include "image_samples.h"

using namespace rfork;
using namespace rfork::image;
using Catch::Matchers::Contains;

namespace {

/// An image in a file without a name, reachable as /proc/self/fd/N by programs that this one
/// starts.
UniqueFd image_file(const Bytes& image) {
  UniqueFd fd(::memfd_create("image", 0));
  write_full(fd.get(), image, "memfd");
  REQUIRE(::lseek(fd.get(), 0, SEEK_SET) == 0);
  return fd;
}

struct Ran {
  int status;
  std::string output;
};

/// Runs a shell command with IMAGE set to the image's name; output is what it says on stdout and
/// stderr.
Ran run(const std::string& command, const Bytes& image) {
  const UniqueFd fd = image_file(image);
  const std::string line =
      "IMAGE=/proc/self/fd/" + std::to_string(fd.get()) + "; { " + command + "; } 2>&1";
  FILE* pipe = ::popen(line.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  char buffer[4096];
  while (const size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, n);
  return {::pclose(pipe), output};
}

bool have(const char* program) {
  return std::system((std::string("command -v ") + program + " >/dev/null").c_str()) == 0;
}

void check_reader(const char* program, const std::string& command, const Bytes& image,
                  const char* expected) {
  if (!have(program)) {
    WARN(program << " is not installed");
    return;
  }
  const Ran quiet = run(command + " >/dev/null", image);
  CHECK(quiet.status == 0);
  CHECK(quiet.output == "");
  CHECK_THAT(run(command, image).output, Contains(expected));
}

Bytes rich_image() {
  return samples::image_of(samples::rich_snapshot(), samples::rich_runs());
}

/// A large image: PN_XNUM.
Bytes large_image() {
  Snapshot snapshot = samples::small_snapshot();
  std::vector<DataRun> runs;
  for (uint64_t i = 0; i < 70'000; ++i) {
    const uint64_t start = 0x10000 + 2 * i * kPageSize;
    runs.push_back({DataRun::Target::memory, 0, {start, start + kPageSize}});
  }
  snapshot.processes[0].mappings[0].range.end = 0x10000 + 140'000 * kPageSize;
  return samples::image_of(snapshot, runs);
}

}  // namespace

TEST_CASE("readelf opens an image without complaint") {
  check_reader("readelf", "readelf -lnW \"$IMAGE\"", rich_image(), "NT_PRSTATUS");
  check_reader("readelf", "readelf -hlW \"$IMAGE\"", large_image(), "140");
}

TEST_CASE("eu-readelf opens an image without complaint") {
  check_reader("eu-readelf", "eu-readelf -ln \"$IMAGE\"", rich_image(), "PRSTATUS");
  check_reader("eu-readelf", "eu-readelf -l \"$IMAGE\"", large_image(), "LOAD");
}

TEST_CASE("gdb sees the threads and the memory of an image") {
  Snapshot snapshot = samples::small_snapshot();
  snapshot.processes[0].threads.push_back(samples::rich_snapshot().processes[0].threads[1]);
  const Bytes image = samples::image_of(snapshot, samples::small_runs());
  const std::string command = "gdb -nx -batch -ex 'info threads' -ex 'x/1bx 0x10000' -core $IMAGE";
  check_reader("gdb", command, image, "LWP 4243");
  char first[8];
  std::snprintf(first, sizeof first, "0x%02x", std::to_integer<unsigned>(samples::noise(1, 99)[0]));
  check_reader("gdb", command, image, first);
}

TEST_CASE("an image is read from a pipe") {
  const Bytes image = rich_image();
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd in(ends[0]);
  std::thread writer([&image, out = UniqueFd(ends[1])] { write_full(out.get(), image, "pipe"); });
  ImageReader reader(in.get());
  CHECK(reader.metadata().runs == samples::rich_runs());
  Bytes data(reader.metadata().data_size + 1);
  CHECK(reader.read(data) == reader.metadata().data_size);
  CHECK(reader.read(data) == 0);
  CHECK_NOTHROW(reader.finish());
  writer.join();
}

TEST_CASE("ImageReader::finish reads what is left, and finds what follows and what lacks") {
  Bytes image = rich_image();
  CHECK_NOTHROW(ImageReader(image_file(image).get()).finish());
  image.push_back(std::byte{0});
  CHECK_THROWS_WITH(ImageReader(image_file(image).get()).finish(), Contains("something follows"));
  image.resize(image.size() - 2);
  CHECK_THROWS_WITH(ImageReader(image_file(image).get()).finish(), Contains("cut at byte"));
  image.resize(image.size() - 20'000);
  CHECK_THROWS_WITH(ImageReader(image_file(image).get()).finish(),
                    Contains("cut at byte " + std::to_string(image.size())));
}

TEST_CASE("a directory is no image") {
  const UniqueFd fd = open_or_throw("/", O_RDONLY);
  CHECK_THROWS_WITH(ImageReader(fd.get()), Contains("directory"));
}
