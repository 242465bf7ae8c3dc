/* textfile FILE HOST: opens a file before the rfork, and both go on writing it after. */
#include <rfork/rfork.h>

int main(int argc, char** argv) {
  pid_t child;
  FILE* file;
  if (argc != 3) return fprintf(stderr, "usage: textfile FILE HOST\n"), 2;
  file = fopen(argv[1], "a");
  if (file == NULL) return perror(argv[1]), 1;
  fprintf(file, "opened by %d\n", (int)getpid());
  fflush(file);
  child = rfork(argv[2]);
  if (child < 0) return fprintf(stderr, "textfile: %s\n", rfork_error()), 1;
  if (child != 0) waitpid(child, NULL, 0);
  fprintf(file, "%s goes on\n", child == 0 ? "the child" : "the parent");
  fclose(file);
  if (child == 0) return 0;
  return execlp("cat", "cat", argv[1], (char*)0);
}
