// The yardstick: SIZE MiB of random data from the memory of one process through a plain TCP connection on
// loopback into fresh memory of another. Prints the nanoseconds from connect to the last byte in place.
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace {

constexpr size_t kChunk = 1 << 20;

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  _exit(1);
}

char* fresh_memory(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  return static_cast<char*>(memory);
}

int64_t now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

void receive(int listener, size_t size) {
  const int connection = accept(listener, nullptr, nullptr);
  if (connection < 0) fail("accept");
  char* memory = fresh_memory(size);
  for (size_t have = 0; have < size;) {
    const ssize_t got = read(connection, memory + have, size - have < kChunk ? size - have : kChunk);
    if (got <= 0) fail("read");
    have += got;
  }
  if (write(connection, "k", 1) != 1) fail("write");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const size_t size = std::strtoull(argv[1], nullptr, 10) << 20;
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    fail("listen");
  }
  const pid_t receiver = fork();
  if (receiver == 0) {
    receive(listener, size);
    _exit(0);
  }
  char* data = fresh_memory(size);
  uint64_t state = 88172645463325252;
  for (size_t i = 0; i < size; i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    *reinterpret_cast<uint64_t*>(data + i) = state;
  }
  const int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int64_t start = now();
  if (connect(connection, reinterpret_cast<sockaddr*>(&address), length) != 0) fail("connect");
  for (size_t sent = 0; sent < size;) {
    const ssize_t put = write(connection, data + sent, size - sent < kChunk ? size - sent : kChunk);
    if (put <= 0) fail("write");
    sent += put;
  }
  char done;
  if (read(connection, &done, 1) != 1) fail("read");
  const int64_t took = now() - start;
  int status;
  if (waitpid(receiver, &status, 0) != receiver || status != 0) return 1;
  std::printf("%lld\n", static_cast<long long>(took));
  return 0;
}
