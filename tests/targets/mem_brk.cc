// The heap goes on growing and shrinking from where the break stood.
#include <unistd.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = (1 << 20) + 100;
  char* start = static_cast<char*>(sbrk(size));
  if (start == reinterpret_cast<char*>(-1)) target::fail("sbrk: %s", std::strerror(errno));
  target::fill(start, size, 1);
  void* const end = sbrk(0);

  target::ready();
  target::wait_for_go();

  if (sbrk(0) != end) target::fail("the break is at %p, was at %p", sbrk(0), end);
  target::expect_filled("heap", start, size, 1);
  char* more = static_cast<char*>(sbrk(4 << 20));
  if (more != end) target::fail("growing the heap gave %p, not %p", more, end);
  target::expect_zero("new heap", more, 4 << 20);
  target::fill(more, 4 << 20, 2);
  target::expect_filled("heap after growing", start, size, 1);
  EXPECT(sbrk(-(5 << 20)) != reinterpret_cast<void*>(-1));
  if (target::read_file("/proc/self/maps").find("[heap]") == std::string::npos) {
    target::fail("maps shows no [heap]");
  }
  target::finish();
}
