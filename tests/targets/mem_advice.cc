// madvise and mlock state, with contents: what a fork doesn't copy too.
#include <sys/mman.h>

#include "target.h"

namespace {

struct Case {
  const char* name;
  int advice;  // -1: mlock, -2: mlock2(MLOCK_ONFAULT), -3: MAP_DROPPABLE
  char* start;
  std::string flags;
};

/// When the process was made, in ticks since the boot: a copy is another.
std::string birth() {
  const std::string stat = target::read_file("/proc/self/stat");
  size_t at = stat.rfind(')') + 2;
  for (int field = 3; field < 22; ++field) at = stat.find(' ', at) + 1;
  return stat.substr(at, stat.find(' ', at) - at);
}

/// Its contents may go at any moment; of the kernel's random numbers they must not be in two
/// processes.
void expect_dropped(const Case& one, size_t size, bool original) {
  if (!original) target::expect_zero(one.name, one.start, size);
  target::fill(one.start, size, 3);
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 4 * target::kPage;
  Case cases[] = {
      {"MADV_DONTFORK", MADV_DONTFORK},
      {"MADV_WIPEONFORK", MADV_WIPEONFORK},
      {"MADV_DONTDUMP", MADV_DONTDUMP},
      {"MADV_HUGEPAGE", MADV_HUGEPAGE},
      {"MADV_NOHUGEPAGE", MADV_NOHUGEPAGE},
      {"MADV_MERGEABLE", MADV_MERGEABLE},
      {"MADV_SEQUENTIAL", MADV_SEQUENTIAL},
      {"MADV_RANDOM", MADV_RANDOM},
      {"mlock", -1},
      {"mlock on fault", -2},
      {"MAP_DROPPABLE", -3},
  };
  uint64_t seed = 1;
  for (Case& one : cases) {
    // A gap between the mappings, so that the kernel can't join them.
    char* around = static_cast<char*>(
        target::map(size + 2 * target::kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS));
    one.start = around + target::kPage;
    MUST(mprotect(one.start, size, PROT_READ | PROT_WRITE));
    if (one.advice == -1) {
      MUST(mlock(one.start, size));
    } else if (one.advice == -2) {
      MUST(mlock2(one.start, size, MLOCK_ONFAULT));
    } else if (one.advice == -3) {
      constexpr int kDroppable = 0x08;  // Linux 6.11
      (void)mmap(one.start, size, PROT_READ | PROT_WRITE, kDroppable | MAP_ANONYMOUS | MAP_FIXED,
                 -1, 0);
    } else if (madvise(one.start, size, one.advice) != 0 && errno != EINVAL) {
      target::fail("%s: %s", one.name, std::strerror(errno));  // EINVAL: not in this kernel
    }
    target::fill(one.start, size - target::kPage, seed++);
  }
  for (Case& one : cases) one.flags = target::smaps_field(one.start, "VmFlags");

  const std::string born = birth();
  target::ready();
  target::wait_for_go();

  seed = 1;
  for (Case& one : cases) {
    const std::string flags = target::smaps_field(one.start, "VmFlags");
    if (flags != one.flags) {
      target::fail("%s: VmFlags are '%s', were '%s'", one.name, flags.c_str(), one.flags.c_str());
    }
    if (flags.find("dp") != std::string::npos) {
      expect_dropped(one, size, birth() == born);
      continue;
    }
    target::expect_filled(one.name, one.start, size - target::kPage, seed++);
    target::expect_zero(one.name, one.start + size - target::kPage, target::kPage);
  }
  target::finish();
}
