/* hello HOST: parent and child say who they are. */
#include <rfork/rfork.h>

#include <sys/utsname.h>

int main(int argc, char** argv) {
  struct utsname here;
  pid_t child;
  int status;
  if (argc != 2) return fprintf(stderr, "usage: hello HOST\n"), 2;
  child = rfork(argv[1]);
  if (child < 0) return fprintf(stderr, "hello: %s\n", rfork_error()), 1;
  uname(&here);
  if (child == 0) {
    printf("child: pid %d on %s\n", (int)getpid(), here.nodename);
    return 7;
  }
  waitpid(child, &status, 0);
  printf("parent: pid %d on %s, my child %d ended with %d\n", (int)getpid(), here.nodename,
         (int)child, WEXITSTATUS(status));
  return 0;
}
