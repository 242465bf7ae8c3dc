#include "target.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

namespace target {

namespace {

char** arguments;
char go_path[4096];

void say(int fd, const char* prefix, const char* format, va_list list) {
  char text[4096];
  int length = std::snprintf(text, sizeof text, "%s", prefix);
  length += std::vsnprintf(text + length, sizeof text - length - 1, format, list);
  if (length > int(sizeof text) - 2) length = sizeof text - 2;
  text[length++] = '\n';
  if (write(fd, text, length) != length) _exit(1);
}

// splitmix64: cheap, and every word differs.
uint64_t word_at(uint64_t seed, uint64_t index) {
  uint64_t z = (seed << 40) + index * 0x9e3779b97f4a7c15 + 1;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

void begin(int argc, char** argv, int count) {
  if (argc < 2 + count) fail("usage: %s FOLDER and %d arguments", argv[0], count);
  arguments = argv;
  std::snprintf(go_path, sizeof go_path, "%s/go", argv[1]);
}

const char* argument(int index) { return arguments[2 + index]; }

std::string path(const char* name) { return std::string(arguments[1]) + "/" + name; }

void ready() {
  char text[64];
  const int length = std::snprintf(text, sizeof text, "ready %d\n", int(getpid()));
  if (write(1, text, length) != length) fail("can't say ready: %s", std::strerror(errno));
}

bool go() { return access(go_path, F_OK) == 0; }

void wait_for_go() {
  while (!go()) {
    const timespec pause{0, 1'000'000};
    if (nanosleep(&pause, nullptr) != 0) fail("nanosleep(1 ms): %s", std::strerror(errno));
  }
}

void finish() {
  if (write(1, "ok\n", 3) != 3) _exit(1);
  _exit(0);
}

void skip(const char* format, ...) {
  va_list list;
  va_start(list, format);
  say(1, "skip: ", format, list);
  _exit(77);
}

void fail(const char* format, ...) {
  va_list list;
  va_start(list, format);
  say(2, "FAIL: ", format, list);
  _exit(1);
}

void fill(void* start, size_t size, uint64_t seed) {
  char* bytes = static_cast<char*>(start);
  for (size_t at = 0; at < size; at += 8) {
    const uint64_t word = word_at(seed, at / 8);
    std::memcpy(bytes + at, &word, size - at < 8 ? size - at : 8);
  }
}

void expect_filled(const char* what, const void* start, size_t size, uint64_t seed) {
  const char* bytes = static_cast<const char*>(start);
  for (size_t at = 0; at < size; at += 8) {
    const uint64_t word = word_at(seed, at / 8);
    if (std::memcmp(bytes + at, &word, size - at < 8 ? size - at : 8) != 0) {
      fail("%s: byte %#zx of %#zx differs", what, at, size);
    }
  }
}

void expect_zero(const char* what, const void* start, size_t size) {
  const char* bytes = static_cast<const char*>(start);
  for (size_t at = 0; at < size; ++at) {
    if (bytes[at] != 0) fail("%s: byte %#zx is %#x, not zero", what, at, bytes[at] & 0xff);
  }
}

void* map(size_t size, int protection, int flags, int fd, off_t offset, void* at) {
  void* start = mmap(at, size, protection, flags, fd, offset);
  if (start == MAP_FAILED) fail("mmap %zu bytes: %s", size, std::strerror(errno));
  return start;
}

std::string read_file(const char* file) {
  const int fd = open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("%s: %s", file, std::strerror(errno));
  std::string text;
  char buffer[16384];
  ssize_t got;
  while ((got = read(fd, buffer, sizeof buffer)) > 0) text.append(buffer, got);
  if (got < 0) fail("%s: %s", file, std::strerror(errno));
  close(fd);
  return text;
}

std::string smaps_field(const void* start, const char* key) {
  char head[32];
  std::snprintf(head, sizeof head, "%08lx-", reinterpret_cast<unsigned long>(start));
  const std::string smaps = "\n" + read_file("/proc/self/smaps");
  const size_t entry = smaps.find("\n" + std::string(head));
  if (entry == std::string::npos) fail("no mapping starts at %p", start);
  size_t from = smaps.find("\n" + std::string(key) + ":", entry);
  if (from == std::string::npos) fail("smaps has no %s", key);
  from = smaps.find_first_not_of(' ', from + 2 + std::strlen(key));
  std::string value = smaps.substr(from, smaps.find('\n', from) - from);
  while (!value.empty() && value.back() == ' ') value.pop_back();
  return value;
}

std::string status_line(const char* key) {
  const std::string status = "\n" + read_file("/proc/self/status");
  const size_t from = status.find("\n" + std::string(key));
  if (from == std::string::npos) fail("/proc/self/status has no %s", key);
  return status.substr(from + 1, status.find('\n', from + 1) - from - 1);
}

int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

}  // namespace target
