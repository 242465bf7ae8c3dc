// Memory protection keys: those given, with a gap between them, what they protect, and each
// thread's own rights to them.
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <mutex>
#include <thread>

#include "faults.h"
#include "target.h"

namespace {

volatile char* guarded;
int key;
std::mutex later;

/// Has rights of its own; judged only afterwards.
void in_thread() {
  MUST(pkey_set(key, 0));
  later.lock();
  EXPECT_EQ(pkey_get(key), 0);
  EXPECT(target::may_write(guarded));
  later.unlock();
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const size_t size = 4 * target::kPage;
  const int first = pkey_alloc(0, 0);
  if (first < 0) target::skip("no protection keys: %s", std::strerror(errno));
  const int gap = MUST(pkey_alloc(0, 0));
  key = MUST(pkey_alloc(0, 0));
  const int unused = MUST(pkey_alloc(0, PKEY_DISABLE_ACCESS));
  MUST(pkey_free(gap));
  char* memory = static_cast<char*>(
      target::map(2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  guarded = memory;
  target::fill(memory, 2 * size, 1);
  MUST(pkey_mprotect(memory, size, PROT_READ | PROT_WRITE, key));
  char* second = static_cast<char*>(target::map(size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS));
  MUST(pkey_mprotect(second, size, PROT_READ, first));
  MUST(pkey_set(first, PKEY_DISABLE_WRITE));
  target::catch_faults();
  later.lock();
  std::thread other(in_thread);
  while (target::status_line("Threads").find('2') == std::string::npos) usleep(1000);
  MUST(pkey_set(key, PKEY_DISABLE_ACCESS));

  target::ready();
  target::wait_for_go();

  EXPECT_EQ(pkey_get(first), PKEY_DISABLE_WRITE);
  EXPECT_EQ(pkey_get(key), PKEY_DISABLE_ACCESS);
  EXPECT_TEXT(target::smaps_field(memory, "ProtectionKey"), std::to_string(key));
  EXPECT_TEXT(target::smaps_field(second, "ProtectionKey"), std::to_string(first));
  int code = 0;
  EXPECT(!target::may_read(guarded, &code));
  EXPECT_EQ(code, SEGV_PKUERR);
  EXPECT(target::may_write(memory + size));
  later.unlock();
  other.join();
  MUST(pkey_set(key, PKEY_DISABLE_WRITE));
  EXPECT(target::may_read(guarded) && !target::may_write(guarded));
  MUST(pkey_set(key, 0));
  target::expect_filled("behind a key", memory, 2 * size, 1);
  // The next one is the one that was given back; the other is still taken.
  EXPECT_EQ(MUST(pkey_alloc(0, 0)), gap);
  const int next = MUST(pkey_alloc(0, 0));
  EXPECT(next != unused && next != first && next != key && next != gap);
  MUST(pkey_free(unused));
  target::finish();
}
