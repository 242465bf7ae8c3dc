// mlockall(MCL_FUTURE) and MCL_ONFAULT: what is mapped afterwards is locked.
#include <sys/mman.h>
#include <sys/resource.h>

#include "target.h"

namespace {

/// Whether a new mapping is locked ("lo"), and only when touched ("lf").
void expect_new_mapping(bool locked, bool on_fault) {
  void* const page =
      target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  const std::string flags = " " + target::smaps_field(page, "VmFlags") + " ";
  if ((flags.find(" lo ") != std::string::npos) != locked ||
      (flags.find(" lf ") != std::string::npos) != on_fault) {
    target::fail("a new mapping has the flags%s", flags.c_str());
  }
  MUST(munmap(page, target::kPage));
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv, 1);
  const bool on_fault = std::strcmp(target::argument(0), "on-fault") == 0;
  rlimit limit{};
  MUST(getrlimit(RLIMIT_MEMLOCK, &limit));
  void* const kept =
      target::map(4 * target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  target::fill(kept, 4 * target::kPage, 1);
  if (mlockall(MCL_FUTURE | (on_fault ? MCL_ONFAULT : 0)) != 0) {
    target::skip("mlockall: %s", std::strerror(errno));
  }
  void* const locked =
      target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  expect_new_mapping(true, on_fault);

  target::ready();
  target::wait_for_go();

  expect_new_mapping(true, on_fault);
  EXPECT(target::smaps_field(locked, "VmFlags").find("lo") != std::string::npos);
  target::expect_filled("not locked", kept, 4 * target::kPage, 1);
  MUST(munlockall());
  expect_new_mapping(false, false);
  MUST(mlockall(MCL_FUTURE | (on_fault ? MCL_ONFAULT : 0)));
  target::finish();
}
