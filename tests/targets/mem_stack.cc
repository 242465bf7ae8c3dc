// Stacks keep growing: the main one, and a MAP_GROWSDOWN mapping.
#include <sys/mman.h>

#include "target.h"

namespace {

// Touches a page of stack a call, and gives it back checked.
unsigned dig(unsigned depth) {
  volatile char page[4096];
  page[0] = char(depth);
  page[4095] = char(depth + 1);
  const unsigned below = depth == 0 ? 0 : dig(depth - 1);
  return below + (page[0] == char(depth) && page[4095] == char(depth + 1));
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  // A free hole of 4 MiB, whose top becomes a mapping that grows down.
  char* hole = static_cast<char*>(target::map(4 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS));
  MUST(munmap(hole, 4 << 20));
  char* top = hole + (4 << 20);
  const size_t first = 4 * target::kPage;
  target::map(first, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0, top - first);
  target::fill(top - first, first, 1);
  target::fill(top - first - 2 * target::kPage, 2 * target::kPage, 2);  // grew once already
  EXPECT(dig(20) == 21);
  const char* grown = top - first - 2 * target::kPage;
  EXPECT(target::smaps_field(grown, "VmFlags").find("gd") != std::string::npos);

  target::ready();
  target::wait_for_go();

  EXPECT(target::smaps_field(grown, "VmFlags").find("gd") != std::string::npos);
  target::expect_filled("first pages", top - first, first, 1);
  target::expect_filled("grown pages", grown, 2 * target::kPage, 2);
  for (size_t at = first + 3 * target::kPage; at < (2 << 20); at += target::kPage) {
    *(top - at) = 7;
  }
  const std::string maps = target::read_file("/proc/self/maps");
  if (maps.find("[stack]") == std::string::npos) target::fail("maps shows no [stack]");
  EXPECT_EQ(dig(700), 701);  // 3 MiB of main stack
  target::finish();
}
