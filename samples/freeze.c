/* freeze FILE: writes an image of itself that runs by itself, as often as one likes. */
#include <rfork/rfork.h>

int main(int argc, char** argv) {
  int answer = 6;
  if (argc != 2) return fprintf(stderr, "usage: freeze FILE\n"), 2;
  answer *= 7; /* a long computation */
  switch (rfork_freeze(argv[1])) {
    case 0:
      printf("frozen into %s\n", argv[1]);
      return 0;
    case 1:
      printf("thawed: the answer is still %d\n", answer);
      return 0;
    default:
      return fprintf(stderr, "freeze: %s\n", rfork_error()), 1;
  }
}
