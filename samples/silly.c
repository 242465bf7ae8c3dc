/* silly HOST: the loop of the first remote fork, 0 to 9, once here and once there. */
#include <rfork/rfork.h>

int main(int argc, char** argv) {
  pid_t child;
  int i;
  if (argc != 2) return fprintf(stderr, "usage: silly HOST\n"), 2;
  setvbuf(stdout, NULL, _IOLBF, 0);
  child = rfork(argv[1]);
  if (child < 0) return fprintf(stderr, "silly: %s\n", rfork_error()), 1;
  for (i = 0; i < 10; ++i) printf("%s %d\n", child == 0 ? "child" : "parent", i);
  if (child != 0) waitpid(child, NULL, 0);
  return 0;
}
