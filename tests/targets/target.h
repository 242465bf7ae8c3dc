// What every target shares.
//
// A target sets up one kind of kernel state, calls ready(), waits for go, and verifies itself: exit
// status 0 and a last line "ok", or 1 and a line that says what differs. It is called `TARGET FOLDER
// [ARGUMENT...]`: the folder is where it may keep files, and where the file `go` appears. The state
// must survive between ready() and go whatever is done to the process: that is what the tests are for.
#pragma once

#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace target {

inline constexpr size_t kPage = 4096;

/// To be called first. Fails unless there are at least `arguments` beyond the folder.
void begin(int argc, char** argv, int arguments = 0);
/// argv[2 + index].
const char* argument(int index);
/// FOLDER/name.
std::string path(const char* name);

/// Writes `ready PID` to standard output: what is to be judged is in place.
void ready();
/// Whether FOLDER/go exists. One access(2), no memory.
bool go();
/// Until go(), looking every millisecond.
void wait_for_go();

/// `ok`, exit status 0, without running destructors of other threads' things.
[[noreturn]] void finish();
/// Exit status 77: this machine can't do what is to be judged.
[[noreturn]] void skip(const char* format, ...) __attribute__((format(printf, 1, 2)));
/// Exit status 1.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// Bytes that depend on `seed` and position, none of them a zero page.
void fill(void* start, size_t size, uint64_t seed);
/// Fails with the first offset that differs.
void expect_filled(const char* what, const void* start, size_t size, uint64_t seed);
void expect_zero(const char* what, const void* start, size_t size);

/// mmap(2) or fail().
void* map(size_t size, int protection, int flags, int fd = -1, off_t offset = 0, void* at = nullptr);
/// Value of the field `key` ("VmFlags") for the mapping that starts at `start` in /proc/self/smaps, without
/// blanks at its ends.
std::string smaps_field(const void* start, const char* key);
/// Whole contents of a small file.
std::string read_file(const char* file);
/// The line of /proc/self/status that starts with `key`.
std::string status_line(const char* key);
/// CLOCK_MONOTONIC.
int64_t now_ns();

}  // namespace target

/// A call that gives -1 and errno.
#define MUST(call)                                                                      \
  ([&] {                                                                                \
    const auto must_result = (call);                                                    \
    if (must_result == -1) ::target::fail("%s: %s", #call, std::strerror(errno));       \
    return must_result;                                                                 \
  }())

#define EXPECT(condition)                                                               \
  do {                                                                                  \
    if (!(condition)) ::target::fail("line %d: not so: %s", __LINE__, #condition);      \
  } while (0)

/// Integers.
#define EXPECT_EQ(got, want)                                                            \
  do {                                                                                  \
    const long long eq_got = (long long)(got), eq_want = (long long)(want);             \
    if (eq_got != eq_want)                                                              \
      ::target::fail("line %d: %s is %lld (%#llx), not %lld (%#llx)", __LINE__, #got, eq_got, \
                     (unsigned long long)eq_got, eq_want, (unsigned long long)eq_want); \
  } while (0)

/// std::string.
#define EXPECT_TEXT(got, want)                                                          \
  do {                                                                                  \
    const std::string text_got = (got), text_want = (want);                             \
    if (text_got != text_want)                                                          \
      ::target::fail("line %d: %s is\n%s\nnot\n%s", __LINE__, #got, text_got.c_str(),   \
                     text_want.c_str());                                                \
  } while (0)
