/* rfork_freeze() as a script wants it: FILE. 8 MiB of memory, a file at an offset and a signal
 * handler are as before in every process that the image makes.
 *
 * Says "original PID ...", "restored PID ...", or "failed errno=N ...: sentence", each with
 * "sigchld=N left=N"; ends with 0, and 43 where it was restored. */
#include <rfork/rfork.h>

#include <signal.h>

static volatile sig_atomic_t child_signals;
static void note_child(int number) {
  (void)number;
  ++child_signals;
}

enum { MEMORY = 8 << 20 };

int main(int argc, char** argv) {
  unsigned char* memory = (unsigned char*)malloc(MEMORY);
  char text[8] = "";
  int result, error, left = 0, i;
  FILE* file = tmpfile();
  if (argc != 2 || memory == NULL || file == NULL) return 2;
  for (i = 0; i < MEMORY; ++i) memory[i] = (unsigned char)((unsigned)i * 2654435761u >> 24);
  fputs("before after", file);
  fflush(file);
  lseek(fileno(file), 7, SEEK_SET);
  signal(SIGCHLD, note_child);
  result = rfork_freeze(argv[1]);
  error = errno;
  while (waitpid(-1, NULL, WNOHANG) >= 0) ++left;
  if (result < 0) {
    printf("failed errno=%d sigchld=%d left=%d: %s\n", error, (int)child_signals, left,
           rfork_error());
    return 0;
  }
  for (i = 0; i < MEMORY; ++i) {
    if (memory[i] != (unsigned char)((unsigned)i * 2654435761u >> 24))
      return printf("memory differs at %d\n", i), 1;
  }
  if (read(fileno(file), text, sizeof text) != 5 || strncmp(text, "after", 5) != 0)
    return printf("file: %s\n", text), 1;
  raise(SIGCHLD);
  printf("%s %d sigchld=%d left=%d\n", result == 0 ? "original" : "restored", (int)getpid(),
         (int)child_signals - 1, left);
  return result == 0 ? 0 : 43;
}
