// A mapping that is longer than its file: the part behind the end gives SIGBUS, before and after.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "target.h"

namespace {

sigjmp_buf escape;

void on_bus(int) { siglongjmp(escape, 1); }

void expect_bus(volatile char* at) {
  if (sigsetjmp(escape, 1) == 0) {
    (void)*at;
    target::fail("reading behind the end of the file gave no SIGBUS");
  }
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string file = target::path("short.data");
  const int fd = MUST(open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  MUST(ftruncate(fd, 100));
  EXPECT_EQ(pwrite(fd, "beginning", 9, 0), 9);
  char* own = static_cast<char*>(
      target::map(4 * target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd));
  char* shared = static_cast<char*>(
      target::map(4 * target::kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd));
  MUST(close(fd));
  own[200] = 'k';  // behind the end, in the last page: kept by a private mapping
  signal(SIGBUS, on_bus);

  target::ready();
  target::wait_for_go();

  EXPECT(std::memcmp(own, "beginning", 9) == 0);
  EXPECT(std::memcmp(shared, "beginning", 9) == 0);
  EXPECT_EQ(own[200], 'k');
  expect_bus(own + target::kPage);
  expect_bus(shared + 3 * target::kPage);
  target::finish();
}
