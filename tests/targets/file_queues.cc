// Much in many pipes and sockets, all the process's own: more than 16 MiB in all, and in one socket
// where that is allowed.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include "target.h"

namespace {

constexpr int kPipes = 4;           // a user may have 64 MiB in all
constexpr int kPipeSize = 1 << 20;  // what everybody may ask for: /proc/sys/fs/pipe-max-size
constexpr int kPairs = 180;
constexpr size_t kInPair = 100'000;
constexpr size_t kInLargePair = 20 << 20;

struct Ends {
  int out = -1, in = -1;
  size_t size = 0;
};

std::vector<char> contents_of(const Ends& ends, uint64_t seed) {
  std::vector<char> bytes(ends.size);
  target::fill(bytes.data(), bytes.size(), seed);
  return bytes;
}

void put(const Ends& ends, uint64_t seed) {
  const std::vector<char> bytes = contents_of(ends, seed);
  for (size_t done = 0; done < bytes.size();)
    done += static_cast<size_t>(MUST(write(ends.in, bytes.data() + done, bytes.size() - done)));
}

void expect(const Ends& ends, uint64_t seed) {
  std::vector<char> got(ends.size);
  for (size_t done = 0; done < got.size();) {
    const ssize_t n = MUST(read(ends.out, got.data() + done, got.size() - done));
    EXPECT(n > 0);
    done += static_cast<size_t>(n);
  }
  target::expect_filled("a queue", got.data(), got.size(), seed);
  EXPECT_EQ(fcntl(ends.out, F_SETFL, O_NONBLOCK), 0);
  char more;
  EXPECT_EQ(read(ends.out, &more, 1), -1);
  EXPECT_EQ(errno, EAGAIN);
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  std::vector<Ends> queues;
  for (int i = 0; i < kPipes; ++i) {
    int ends[2];
    MUST(pipe(ends));
    const int size = fcntl(ends[1], F_SETPIPE_SZ, kPipeSize);
    if (size != kPipeSize) target::skip("no pipes of 1 MiB here: %s", std::strerror(errno));
    queues.push_back({ends[0], ends[1], kPipeSize});
  }
  for (int i = 0; i <= kPairs; ++i) {
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    queues.push_back({pair[0], pair[1], kInPair});
  }
  const int room = 64 << 20;
  if (setsockopt(queues.back().in, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) == 0)
    queues.back().size = kInLargePair;
  for (size_t i = 0; i < queues.size(); ++i) put(queues[i], i);

  target::ready();
  target::wait_for_go();

  for (size_t i = 0; i < queues.size(); ++i) expect(queues[i], i);
  target::finish();
}
