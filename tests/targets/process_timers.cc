// Interval timers: the one of real time goes on firing with its interval, the two of CPU time keep what
// is left of them.
#include <signal.h>
#include <sys/time.h>

#include "target.h"

namespace {

volatile sig_atomic_t fired;
void on_alarm(int) { fired = fired + 1; }

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  struct sigaction action = {};
  action.sa_handler = on_alarm;
  action.sa_flags = SA_RESTART;
  MUST(sigaction(SIGALRM, &action, nullptr));
  const itimerval real = {{0, 50'000}, {0, 30'000}};
  const itimerval virtual_ = {{700, 0}, {900, 0}};
  const itimerval prof = {{0, 0}, {1000, 0}};
  MUST(setitimer(ITIMER_VIRTUAL, &virtual_, nullptr));
  MUST(setitimer(ITIMER_PROF, &prof, nullptr));
  MUST(setitimer(ITIMER_REAL, &real, nullptr));
  while (fired < 2) {
  }

  target::ready();
  while (!target::go()) {
  }

  itimerval now;
  MUST(getitimer(ITIMER_REAL, &now));
  EXPECT_EQ(now.it_interval.tv_usec, 50'000);
  EXPECT_EQ(now.it_interval.tv_sec, 0);
  const int until = fired + 3;
  while (fired < until) {
  }
  MUST(getitimer(ITIMER_VIRTUAL, &now));
  EXPECT_EQ(now.it_interval.tv_sec, 700);
  EXPECT(now.it_value.tv_sec > 400 && now.it_value.tv_sec <= 900);
  MUST(getitimer(ITIMER_PROF, &now));
  EXPECT_EQ(now.it_interval.tv_sec, 0);
  EXPECT(now.it_value.tv_sec > 500 && now.it_value.tv_sec <= 1000);
  target::finish();
}
