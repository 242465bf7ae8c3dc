/* What a thread that waits for any child, and a SIGCHLD handler, see of calls that leave no child
 * behind: freeze FILE | rfork HOST, called 20 times. The program has a child of its own meanwhile.
 *
 * Says "errno=N strangers=N sigchld=N SENTENCE": of the last call (0: it succeeded), children that
 * the program has never made, and signals. Ends with 0, and 43 where it was restored. */
#include <rfork/rfork.h>

#include <pthread.h>
#include <signal.h>
#include <time.h>

static volatile sig_atomic_t child_signals;
static void note_child(int number) {
  (void)number;
  ++child_signals;
}

static int strangers;

/* Until the program's own child has ended. */
static void* wait_for_any(void* child) {
  int status;
  for (;;) {
    const pid_t ended = waitpid(-1, &status, 0);
    if (ended == *(pid_t*)child) return NULL;
    if (ended > 0) ++strangers;
  }
}

int main(int argc, char** argv) {
  pthread_t thread;
  pid_t child;
  int i, result = 0, error = 0;
  if (argc != 3) return 2;
  signal(SIGCHLD, note_child);
  child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  if (pthread_create(&thread, NULL, wait_for_any, &child) != 0) return 2;
  for (i = 0; i < 20 && result <= 0; ++i) {
    if (strcmp(argv[1], "freeze") == 0) {
      result = rfork_freeze(argv[2]);
      if (result == 1) return 43;
    } else {
      result = rfork(argv[2]);
      if (result >= 0) return 2;
    }
    error = result < 0 ? errno : 0;
  }
  i = (int)child_signals;
  kill(child, SIGKILL);
  pthread_join(thread, NULL);
  printf("errno=%d strangers=%d sigchld=%d %s\n", error, strangers, i, rfork_error());
  return 0;
}
