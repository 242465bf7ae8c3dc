// /proc/self/maps reads the same afterwards: ranges, protections, offsets, names. vvar pages are the
// kernel's own and differ between kernels; the vDSO must be where it was.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "target.h"

namespace {

struct Listing {
  char text[1 << 20];
  size_t size;
};
// Not on the heap: reading must not change what is read.
Listing before, after;

void list(Listing& listing) {
  const int fd = MUST(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
  listing.size = 0;
  ssize_t got;
  while ((got = read(fd, listing.text + listing.size, sizeof listing.text - listing.size)) > 0) {
    listing.size += got;
  }
  close(fd);
}

// Range, protection, offset and name of each line; device and inode of shared memory are new. The kernel
// joins neighbours of anonymous memory or not, by their history: here they always are one line.
std::string comparable(const Listing& listing) {
  std::string all;
  unsigned long last_end = 0;
  std::string last_kind;
  const char* at = listing.text;
  const char* end = listing.text + listing.size;
  while (at < end) {
    const char* stop = static_cast<const char*>(std::memchr(at, '\n', end - at));
    if (stop == nullptr) break;
    const std::string line(at, stop);
    at = stop + 1;
    if (line.find("[vvar") != std::string::npos) continue;
    unsigned long start, end;
    char protection[8], offset[32], device[16], name[4096] = "";
    unsigned long inode;
    std::sscanf(line.c_str(), "%lx-%lx %7s %31s %15s %lu %4095[^\n]", &start, &end, protection, offset,
                device, &inode, name);
    const std::string kind = std::string(protection) + " " + offset + " " + name;
    const bool anonymous = inode == 0 && name[0] == '\0';
    if (!(anonymous && start == last_end && kind == last_kind)) {
      if (!all.empty()) all += std::to_string(last_end) + "\n";
      all += kind + " " + std::to_string(start) + "-";
    }
    last_end = end;
    last_kind = kind;
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  char* area = static_cast<char*>(
      target::map(64 * target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  MUST(mprotect(area + 8 * target::kPage, 8 * target::kPage, PROT_READ));
  MUST(mprotect(area + 16 * target::kPage, 8 * target::kPage, PROT_NONE));
  MUST(mprotect(area + 24 * target::kPage, 8 * target::kPage, PROT_READ | PROT_EXEC));
  MUST(munmap(area + 32 * target::kPage, target::kPage));
  target::map(4 * target::kPage, PROT_READ, MAP_SHARED | MAP_ANONYMOUS);
  // Names only where the kernel has them (CONFIG_ANON_VMA_NAME).
  prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, area + 40 * target::kPage, 4 * target::kPage, "stash");
  list(before);

  target::ready();
  target::wait_for_go();

  list(after);
  const std::string was = comparable(before), is = comparable(after);
  size_t same = 0;
  while (same < was.size() && same < is.size() && was[same] == is[same]) ++same;
  if (same != was.size() || same != is.size()) {
    same = same == 0 ? 0 : was.rfind('\n', same - 1) + 1;
    target::fail("from here on maps reads\n%.400s\nnot\n%.400s", is.c_str() + same, was.c_str() + same);
  }
  target::finish();
}
