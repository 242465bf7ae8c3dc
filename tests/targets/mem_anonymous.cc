// Private anonymous memory: writable, read-only after it was written, write-only, executable code.
#include <sys/mman.h>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 3 << 20;
  void* plain = target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  void* frozen = target::map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  void* write_only = target::map(size, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  char* code = static_cast<char*>(target::map(target::kPage, PROT_READ | PROT_WRITE | PROT_EXEC,
                                              MAP_PRIVATE | MAP_ANONYMOUS));
  target::fill(plain, size, 1);
  target::fill(frozen, size, 2);
  MUST(mprotect(frozen, size, PROT_READ));
  target::fill(write_only, size, 3);
  const unsigned char give_42[] = {0xb8, 42, 0, 0, 0, 0xc3};  // mov $42, %eax; ret
  std::memcpy(code, give_42, sizeof give_42);
  MUST(mprotect(code, target::kPage, PROT_READ | PROT_EXEC));
  const std::string flags_frozen = target::smaps_field(frozen, "VmFlags");
  const std::string flags_write = target::smaps_field(write_only, "VmFlags");
  const std::string flags_code = target::smaps_field(code, "VmFlags");

  target::ready();
  target::wait_for_go();

  target::expect_filled("plain", plain, size, 1);
  target::expect_filled("read-only", frozen, size, 2);
  EXPECT_EQ(reinterpret_cast<int (*)()>(code)(), 42);
  EXPECT_TEXT(target::smaps_field(frozen, "VmFlags"), flags_frozen);
  EXPECT_TEXT(target::smaps_field(write_only, "VmFlags"), flags_write);
  EXPECT_TEXT(target::smaps_field(code, "VmFlags"), flags_code);
  MUST(mprotect(write_only, size, PROT_READ));
  target::expect_filled("write-only", write_only, size, 3);
  MUST(mprotect(frozen, size, PROT_READ | PROT_WRITE));
  target::fill(frozen, size, 4);
  target::finish();
}
