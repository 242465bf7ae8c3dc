// Writes "alive" to standard output every few milliseconds: who must not run is heard if it does. Small, so
// that its image is. Holds a page of random bytes.
#include <time.h>
#include <unistd.h>

#include "target.h"

char contents[4 * target::kPage];

int main(int argc, char** argv) {
  target::begin(argc, argv);
  target::fill(contents, sizeof contents, 1);
  target::ready();
  while (!target::go()) {
    if (write(1, "alive\n", 6) != 6) _exit(1);
    const timespec pause{0, 3'000'000};
    EXPECT_EQ(nanosleep(&pause, nullptr), 0);
  }
  target::expect_filled("contents", contents, sizeof contents, 1);
  target::finish();
}
