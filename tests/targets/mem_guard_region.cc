// Guard regions (MADV_GUARD_INSTALL, Linux 6.13) in anonymous memory: within one mapping, and at
// the end of a thread's stack as libc makes it; in shared memory and a shared file (Linux 6.15).
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <iterator>

#include "faults.h"
#include "target.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

namespace {

constexpr size_t kPages = 64;

bool is_guard(size_t page) {
  return page == 0 || (page >= 20 && page < 25) || page == 30 || page == kPages - 1;
}

/// Of 8 pages, one of them a guard with something behind it. Null: before Linux 6.15.
char* guarded_shared(int fd) {
  char* const memory = static_cast<char*>(target::map(
      8 * target::kPage, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd));
  target::fill(memory, 8 * target::kPage, 5);
  const int result = madvise(memory + 3 * target::kPage, target::kPage, MADV_GUARD_INSTALL);
  return result == 0 ? memory : nullptr;
}

void expect_guarded(char* memory) {
  if (memory == nullptr) return;
  for (size_t page = 0; page < 8; ++page) {
    EXPECT_EQ(target::may_read(memory + page * target::kPage), page != 3);
  }
  target::expect_filled("before a guard in shared memory", memory, 3 * target::kPage, 5);
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  char* memory = static_cast<char*>(
      target::map(kPages * target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  char* read_only = static_cast<char*>(
      target::map(8 * target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  target::fill(memory, kPages / 2 * target::kPage, 1);
  target::fill(read_only, 8 * target::kPage, 3);
  if (madvise(memory, target::kPage, MADV_GUARD_INSTALL) != 0) target::skip("needs Linux 6.13");
  for (size_t page = 0; page < kPages; ++page) {
    if (!is_guard(page)) continue;
    MUST(madvise(memory + page * target::kPage, target::kPage, MADV_GUARD_INSTALL));
  }
  MUST(madvise(read_only + 4 * target::kPage, target::kPage, MADV_GUARD_INSTALL));
  MUST(mprotect(read_only, 8 * target::kPage, PROT_READ));
  target::catch_faults();
  const std::string file = target::path("guarded.data");
  const int fd = MUST(open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  MUST(ftruncate(fd, 8 * target::kPage));
  char* const shared[] = {guarded_shared(-1), guarded_shared(fd)};
  const auto lines = [&] { return target::smaps_field(memory, "Size"); };
  const std::string size = lines();

  target::ready();
  target::wait_for_go();

  char expected[kPages / 2 * target::kPage];
  target::fill(expected, sizeof expected, 1);
  for (size_t page = 0; page < kPages; ++page) {
    char* at = memory + page * target::kPage;
    if (target::may_read(at) == is_guard(page) || target::may_write(at + 4095) == is_guard(page)) {
      target::fail("page %zu is %sa guard", page, is_guard(page) ? "no longer " : "");
    }
    if (is_guard(page)) continue;
    if (page >= kPages / 2) {
      target::expect_zero("untouched", at, target::kPage);
    } else if (std::memcmp(at, expected + page * target::kPage, target::kPage) != 0) {
      target::fail("page %zu differs", page);
    }
  }
  EXPECT(!target::may_read(read_only + 4 * target::kPage) && target::may_read(read_only));
  target::expect_filled("read-only", read_only, 4 * target::kPage, 3);
  for (char* memory : shared) expect_guarded(memory);
  EXPECT_TEXT(lines(), size);  // still one mapping
  for (size_t page = 20; page < 25; ++page) {
    char* at = memory + page * target::kPage;
    MUST(madvise(at, target::kPage, MADV_GUARD_REMOVE));
    target::expect_zero("behind a guard", at, target::kPage);
    MUST(madvise(at, target::kPage, MADV_GUARD_INSTALL));
  }
  target::finish();
}
