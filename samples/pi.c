/* pi HOST...: one worker on each host adds up its share of the series, results come back over
 * pipes; the share of a worker that is lost is done again, here. */
#include <rfork/rfork.h>

enum { TERMS = 20000000 };

static double share(int worker, int workers) {
  double sum = 0;
  long i;
  for (i = worker; i < TERMS; i += workers)
    sum += (i % 2 == 0 ? 4.0 : -4.0) / (2.0 * (double)i + 1.0);
  return sum;
}

int main(int argc, char** argv) {
  const int workers = argc - 1;
  double pi = 0;
  int i;
  if (workers < 1) return fprintf(stderr, "usage: pi HOST...\n"), 2;
  pid_t pids[64];
  int results[64];
  for (i = 0; i < workers && i < 64; ++i) {
    int ends[2];
    if (pipe(ends) != 0) return 1;
    pids[i] = rfork(argv[1 + i]);
    if (pids[i] == 0) {
      const double sum = share(i, workers);
      return write(ends[1], &sum, sizeof sum) == (ssize_t)sizeof sum ? 0 : 1;
    }
    close(ends[1]);
    results[i] = ends[0];
  }
  for (i = 0; i < workers && i < 64; ++i) {
    double sum;
    if (pids[i] < 0 || read(results[i], &sum, sizeof sum) != (ssize_t)sizeof sum) {
      printf("worker %d on %s is lost: its share is done here\n", i, argv[1 + i]);
      sum = share(i, workers);
    }
    if (pids[i] > 0) waitpid(pids[i], NULL, 0);
    pi += sum;
  }
  printf("pi is about %.6f, by %d workers\n", pi, workers);
  return 0;
}
