// Runs a program and writes to descriptor 3: start (CLOCK_REALTIME, ns), peak resident memory of that one process
// (KiB), exit status. A program of its own, because a child starts with the resident memory of what forked
// it, and that must be little.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  timespec start;
  clock_gettime(CLOCK_REALTIME, &start);
  const pid_t child = fork();
  if (child == 0) {
    close(3);
    execv(argv[1], argv + 1);
    std::perror(argv[1]);
    _exit(127);
  }
  int status;
  rusage usage;
  if (child < 0 || wait4(child, &status, 0, &usage) != child) return 1;
  dprintf(3, "%lld %ld %d\n", static_cast<long long>(start.tv_sec) * 1'000'000'000 + start.tv_nsec,
          usage.ru_maxrss, status);
  return 0;
}
