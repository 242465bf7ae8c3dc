/* Measures rfork() from inside a small program, beside fork() of itself: FILE is shared memory.
 *
 *   rforks FILE times HOST RUNS      one after the other: "fork PARENT CHILD rfork PARENT CHILD",
 *                                    medians in ns from the call to its return on either side
 *   rforks FILE rate HOST N MOST     N children, at most MOST at a time: children a second
 *   rforks FILE relays HOST N MIB    a child writes MIB to each of N pipes: MiB a second in all,
 *                                    then a child of fork() does, then the same goes through one
 *                                    plain TCP connection on loopback */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <rfork/rfork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_RUNS 1000
#define CHUNK (64 << 10)

static volatile int64_t* child_time;

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void fail(const char* what) {
  fprintf(stderr, "rforks: %s: %s\n", what, rfork_error()[0] ? rfork_error() : strerror(errno));
  exit(1);
}

static int compare(const void* a, const void* b) {
  const int64_t x = *(const int64_t*)a, y = *(const int64_t*)b;
  return (x > y) - (x < y);
}

static int64_t median(int64_t* values, int count) {
  qsort(values, (size_t)count, sizeof *values, compare);
  return values[count / 2];
}

static void time_calls(const char* name, const char* host, int runs) {
  static int64_t parent[MOST_RUNS], child[MOST_RUNS];
  int i;
  for (i = 0; i < runs; ++i) {
    const int64_t began = now();
    const pid_t pid = host != NULL ? rfork(host) : fork();
    if (pid == 0) {
      *child_time = now();
      _exit(0);
    }
    parent[i] = now() - began;
    if (pid < 0) fail(name);
    waitpid(pid, NULL, 0);
    child[i] = *child_time - began;
  }
  printf("%s %lld %lld ", name, (long long)median(parent, runs), (long long)median(child, runs));
}

/* One caller each for `most` of them: rfork() returns when the child runs. */
static void measure_rate(const char* host, int count, int most) {
  const int64_t began = now();
  int caller;
  for (caller = 0; caller < most; ++caller) {
    if (fork() == 0) {
      int i;
      for (i = caller; i < count; i += most) {
        const pid_t pid = rfork(host);
        int status = 0;
        if (pid == 0) _exit(7);
        if (pid < 0) fail("rfork");
        if (waitpid(pid, &status, 0) != pid || status != 7 << 8) fail("a child's status");
      }
      _exit(0);
    }
  }
  for (caller = 0; caller < most; ++caller) {
    int status = 0;
    wait(&status);
    if (status != 0) exit(1);
  }
  printf("%.1f\n", count / ((double)(now() - began) / 1e9));
}

static void write_all(int fd, int64_t size) {
  static char block[CHUNK];
  while (size > 0) {
    const ssize_t n = write(fd, block, size < CHUNK ? (size_t)size : CHUNK);
    if (n <= 0) fail("write");
    size -= n;
  }
}

/* Reads all descriptors to their ends; MiB a second. */
static double drink(struct pollfd* ends, int count) {
  static char block[CHUNK];
  const int64_t began = now();
  int64_t total = 0;
  int open = count;
  while (open > 0) {
    int i;
    poll(ends, (nfds_t)count, -1);
    for (i = 0; i < count; ++i) {
      ssize_t n;
      if (ends[i].revents == 0) continue;
      n = read(ends[i].fd, block, sizeof block);
      if (n > 0) {
        total += n;
        continue;
      }
      close(ends[i].fd);
      ends[i].fd = -1;
      --open;
    }
  }
  return (double)total / (1 << 20) / ((double)(now() - began) / 1e9);
}

/* `host` null: a local child, by fork(). */
static void measure_pipes(const char* host, int count, int64_t size) {
  struct pollfd ends[64];
  int writers[64];
  int i;
  pid_t pid;
  for (i = 0; i < count; ++i) {
    int both[2];
    if (pipe(both) != 0) fail("pipe");
    ends[i].fd = both[0];
    ends[i].events = POLLIN;
    writers[i] = both[1];
  }
  pid = host != NULL ? rfork(host) : fork();
  if (pid < 0) fail("rfork");
  if (pid == 0) {
    for (i = 0; i < count; ++i) close(ends[i].fd);
    for (i = 0; i < count; ++i) {
      if (fork() == 0) {
        write_all(writers[i], size);
        _exit(0);
      }
    }
    while (wait(NULL) > 0) {
    }
    _exit(0);
  }
  for (i = 0; i < count; ++i) close(writers[i]);
  printf("%.1f ", drink(ends, count));
  waitpid(pid, NULL, 0);
}

static void measure_tcp(int64_t size) {
  struct sockaddr_in address;
  socklen_t length = sizeof address;
  struct pollfd end;
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (struct sockaddr*)&address, length) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, (struct sockaddr*)&address, &length) != 0) {
    fail("listen");
  }
  if (fork() == 0) {
    const int out = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(out, (struct sockaddr*)&address, length) != 0) fail("connect");
    write_all(out, size);
    _exit(0);
  }
  end.fd = accept(listener, NULL, NULL);
  end.events = POLLIN;
  if (end.fd < 0) fail("accept");
  printf("%.1f\n", drink(&end, 1));
  wait(NULL);
}

int main(int argc, char** argv) {
  int fd;
  if (argc < 5) return 2;
  fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, 4096) != 0) fail(argv[1]);
  child_time = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (child_time == MAP_FAILED) fail("mmap");
  close(fd);
  setvbuf(stdout, NULL, _IOFBF, 4096);
  if (strcmp(argv[2], "times") == 0) {
    time_calls("fork", NULL, atoi(argv[4]));
    time_calls("rfork", argv[3], atoi(argv[4]));
    printf("\n");
  } else if (strcmp(argv[2], "rate") == 0 && argc == 6) {
    measure_rate(argv[3], atoi(argv[4]), atoi(argv[5]));
  } else if (strcmp(argv[2], "relays") == 0 && argc == 6) {
    const int count = atoi(argv[4]);
    const int64_t size = (int64_t)atoi(argv[5]) << 20;
    if (count < 1 || count > 64) return 2;
    measure_pipes(argv[3], count, size);
    measure_pipes(NULL, count, size);
    measure_tcp(size * count);
  } else {
    return 2;
  }
  return 0;
}
