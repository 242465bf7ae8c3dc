// peak_memory FD PROGRAM...: runs a program and writes to descriptor FD: start (CLOCK_REALTIME, ns), peak resident memory of that one process
// (KiB), exit status. A program of its own, because a child starts with the resident memory of what forked
// it, and that must be little.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int note = std::atoi(argv[1]);
  timespec start;
  clock_gettime(CLOCK_REALTIME, &start);
  const pid_t child = fork();
  if (child == 0) {
    close(note);
    execv(argv[2], argv + 2);
    std::perror(argv[2]);
    _exit(127);
  }
  int status;
  rusage usage;
  if (child < 0 || wait4(child, &status, 0, &usage) != child) return 1;
  dprintf(note, "%lld %ld %d\n", static_cast<long long>(start.tv_sec) * 1'000'000'000 + start.tv_nsec,
          usage.ru_maxrss, status);
  return 0;
}
